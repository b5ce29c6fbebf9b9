"""Images to be corrupted: smooth shapes with edges, as real ones have."""

import torch
from torch import Tensor
from torch.nn import functional as F

from robustkit.randomness import Streams


def scenes(n: int, channels: int, height: int, width: int) -> Tensor:
    """(n, channels, height, width) in [0, 1]: waves, a box, detail at all scales; 8 bits."""
    dice = torch.Generator().manual_seed(0)
    y = torch.linspace(0, 1, height)[:, None]
    x = torch.linspace(0, 1, width)
    pictures = []
    for number in range(n * channels):
        picture = 0.45 + 0.3 * torch.sin(5 * x + number) * torch.cos(4 * y - number)
        picture[height // 4 : height // 2, width // 3 : 2 * width // 3] += 0.2
        pictures.append(picture)
    waves = torch.stack(pictures).reshape(n, channels, height, width)
    for scale in (1, 2, 4, 8):
        size = max(height // scale, 1), max(width // scale, 1)
        detail = torch.rand((n, channels, *size), generator=dice) - 0.5
        waves += 0.1 * F.interpolate(detail, (height, width), mode="bilinear")
    return (waves.clamp(0, 1) * 255).round() / 255


def streams(n: int, seed: int = 0) -> Streams:
    return Streams.of(seed=seed, ids=torch.arange(n) * 7 + 3)

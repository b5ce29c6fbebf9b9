"""Random textures, one per stream: plasma and ice."""

import math

import torch
from torch import Tensor

from robustkit.randomness import Streams

# Crystals on one pane of ice, and how often needles repeat along its longer side.
_CRYSTALS = 24
_NEEDLES = (12.0, 36.0)

# Ice is a little blue.
_TINT = (0.9, 0.97, 1.0)


def plasma(streams: Streams, height: int, width: int, decay: float) -> Tensor:
    """Clouds by midpoint displacement on a torus.

    Args:
        streams: One per texture.
        height: Rows.
        width: Columns.
        decay: The noise shrinks by its square from scale to scale, as in what made the published
            sets.

    Returns:
        (N, height, width) float32; the whole clouds, of which this is the upper left part, span
        [0, 1].

    Reference:
        Fournier, Fussell, Carpenter: Computer rendering of stochastic models. Communications of the
        ACM 25, 1982 (the diamond-square algorithm).
    """
    size = 1 << (max(height, width, 2) - 1).bit_length()
    clouds = torch.zeros((len(streams), size, size), device=streams.ids.device)
    step, noise, draw = size, 1.0, 0
    while step >= 2:
        half = step // 2
        corners = clouds[:, ::step, ::step]
        shape = tuple(corners.shape[1:])
        below, right = corners.roll(-1, 1), corners.roll(-1, 2)
        middles = (corners + below + right + below.roll(-1, 2)) / 4
        middles = middles + streams.uniform(shape, -noise, noise, draw=draw)
        clouds[:, half::step, half::step] = middles
        top = (corners + right + middles + middles.roll(1, 1)) / 4
        left = (corners + below + middles + middles.roll(1, 2)) / 4
        clouds[:, ::step, half::step] = top + streams.uniform(shape, -noise, noise, draw=draw + 1)
        clouds[:, half::step, ::step] = left + streams.uniform(shape, -noise, noise, draw=draw + 2)
        step, noise, draw = half, noise / decay**2, draw + 3
    lowest, highest = clouds.amin((1, 2), keepdim=True), clouds.amax((1, 2), keepdim=True)
    return ((clouds - lowest) / (highest - lowest).clamp_min(1e-12))[:, :height, :width]


def frost_texture(streams: Streams, channels: int, height: int, width: int) -> Tensor:
    """Ice on a pane: feathered crystals with bright seams, thicker in some places.

    Args:
        streams: One per texture.
        channels: Three get a tint of blue.
        height: Rows.
        width: Columns.

    Returns:
        (N, channels, height, width) float32 in [0, 1].
    """
    nearest, second, crystal = _crystals(streams, height, width)
    seams = torch.exp(-(second - nearest) * 90)
    needles = _needles(streams, crystal, height, width)
    patches = plasma(streams.fork("patches"), height, width, 1.5)
    grains = 1 - (2 * plasma(streams.fork("grains"), height, width, 1.2) - 1).abs()
    ice = patches * (0.3 + 0.6 * needles * grains + 0.4 * grains) + 0.3 * seams + 0.1
    tint = _TINT if channels == 3 else (1.0,) * channels
    return torch.stack([ice.clamp(0, 1) * shade for shade in tint], 1)


def _crystals(streams: Streams, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """(N, H, W): how far the nearest and the second seed are, in sides, and which is nearest."""
    seeds = streams.fork("seeds").uniform((2, _CRYSTALS))[..., None, None]
    y, x = _grid(height, width, streams.ids.device)
    apart = (seeds[:, 0] - y) ** 2 + (seeds[:, 1] - x) ** 2
    nearest, crystal = apart.min(1, keepdim=True)
    others = apart.scatter(1, crystal, torch.inf)
    return nearest[:, 0].sqrt(), others.amin(1).sqrt(), crystal[:, 0]


def _needles(streams: Streams, crystal: Tensor, height: int, width: int) -> Tensor:
    """(N, H, W) in [0, 1]: fine parallel lines, in each crystal of another direction."""
    features = streams.fork("needles").uniform((3, _CRYSTALS))
    index = crystal.flatten(1)
    turn, phase, pitch = (
        features[:, feature].gather(1, index).reshape(crystal.shape) for feature in range(3)
    )
    y, x = _grid(height, width, streams.ids.device)
    along = x * torch.cos(math.pi * turn) + y * torch.sin(math.pi * turn)
    repeats = _NEEDLES[0] + (_NEEDLES[1] - _NEEDLES[0]) * pitch
    return 0.5 + 0.5 * torch.cos(2 * math.pi * (repeats * along + phase))


def _grid(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(H, 1) and (1, W): where each pixel lies, in lengths of the longer side."""
    side = max(height, width)
    y = (torch.arange(height, device=device) + 0.5) / side
    x = (torch.arange(width, device=device) + 0.5) / side
    return y[:, None], x[None, :]

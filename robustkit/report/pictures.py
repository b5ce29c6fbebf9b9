"""Images of a report: the original, what was made of it, and the difference made visible."""

import base64
import io
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

# Larger images are shrunk: a page with twenty of them should stay small.
_LARGEST = 320


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Picture:
    """One broken example to show.

    Attributes:
        id: Its id in the data.
        label_name: The right class.
        answer_name: What the model answered to the changed image.
        attack: Which attack changed it.
        distance: How far, in the unit of the threat model.
        clean: (C, H, W) the original, in [0, 1].
        changed: (C, H, W) what the attack made of it.
    """

    id: int
    label_name: str
    answer_name: str
    attack: str
    distance: float
    clean: Tensor
    changed: Tensor


def difference(clean: Tensor, changed: Tensor) -> tuple[Tensor, float]:
    """The change on a grey ground, magnified until its largest value reaches black or white.

    Args:
        clean: (C, H, W) the original.
        changed: (C, H, W) the changed image.

    Returns:
        (C, H, W) in [0, 1], and the factor of magnification; 1 where nothing changed.
    """
    change = _finite(changed) - _finite(clean)
    largest = float(change.abs().max())
    factor = 0.5 / largest if largest > 0 else 1.0
    return 0.5 + factor * change, factor


def data_uri(image: Tensor) -> str:
    """A PNG of a (C, H, W) image in [0, 1], as the address of an inline image.

    One channel is grey, three are red, green and blue; any other number is averaged.
    """
    pixels = _finite(image)
    if len(pixels) not in (1, 3):
        pixels = pixels.mean(0, keepdim=True)
    scale = _LARGEST / max(pixels.shape[1:])
    if scale < 1:
        size = [max(1, round(side * scale)) for side in pixels.shape[1:]]
        pixels = F.interpolate(pixels[None], size, mode="bilinear", antialias=True)[0]
    stored = (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
    grey = len(stored) == 1
    image_file = io.BytesIO()
    array = (stored[0] if grey else stored.permute(1, 2, 0)).contiguous().numpy()
    Image.fromarray(array).save(image_file, "png")
    return "data:image/png;base64," + base64.b64encode(image_file.getvalue()).decode()


def _finite(image: Tensor) -> Tensor:
    return image.detach().to("cpu", torch.float32).nan_to_num(0.0, 1.0, 0.0)

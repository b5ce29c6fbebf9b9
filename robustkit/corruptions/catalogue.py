"""The corruptions by name and severity."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from robustkit.corruptions import blur, digital, noise, weather
from robustkit.corruptions.parameters import LEVELS, NAMES, SEVERITIES, parameter_set
from robustkit.errors import BadInput, ShapeMismatch, UnknownName
from robustkit.randomness import Streams

_CORRUPTIONS: Mapping[str, Callable[..., Tensor]] = {
    "gaussian-noise": noise.gaussian_noise,
    "shot-noise": noise.shot_noise,
    "impulse-noise": noise.impulse_noise,
    "defocus-blur": blur.defocus_blur,
    "glass-blur": blur.glass_blur,
    "motion-blur": blur.motion_blur,
    "zoom-blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "elastic-transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg-compression": digital.jpeg_compression,
}


@torch.no_grad()
def corrupt(images: Tensor, name: str, severity: int, *, streams: Streams) -> Tensor:
    """Corrupt images, each by itself: batch and order cannot change a result.

    Args:
        images: (N, C, H, W) floating point in [0, 1]; any number of channels, any size.
        name: One of `NAMES`.
        severity: 1 to 5, or 0 for the images as they are.
        streams: One per image, on the same device. The same streams give the same images again;
            each name and severity draws numbers of its own.

    Returns:
        A new tensor of the same shape, type and device, in [0, 1].

    Raises:
        UnknownName: There is no such corruption.
        BadInput: There is no such severity.
        ShapeMismatch: These are no images, or there is not one stream for each.

    Reference:
        Hendrycks, Dietterich: Benchmarking neural network robustness to common corruptions and
        perturbations. ICLR 2019.

    Differs from the reference:
        Results are not rounded to bytes (but for JPEG, which codes bytes), where the published sets
        cut them off and ImageNet-C codes them as JPEG once more. Images that are not square, and
        other numbers of channels than three, are allowed. Frost is computed (`frost`), glass blur
        copies (`glass_blur`), sizes between those published get the numbers of the nearer one
        (`parameter_set`).

    Example:
        >>> images = torch.rand(2, 3, 32, 32)
        >>> streams = Streams.of(seed=0, ids=torch.arange(2))
        >>> corrupt(images, "fog", 3, streams=streams).shape
        torch.Size([2, 3, 32, 32])
    """
    _check(images, name, severity, streams)
    if severity == 0 or not len(images):
        return images.clone()
    level = LEVELS[parameter_set(*images.shape[2:])][name][severity - 1]
    drawing = streams.fork(f"{name} {severity}")
    changed = _CORRUPTIONS[name](images.float(), drawing, *level)
    return changed.clamp(0, 1).to(images.dtype)


def _check(images: Tensor, name: str, severity: int, streams: Streams) -> None:
    if name not in NAMES:
        raise UnknownName("corruption", name, NAMES)
    if isinstance(severity, bool) or severity not in (0, *SEVERITIES):
        raise BadInput(f"The severity is {severity!r}; allowed are 0 (unchanged) and 1 to 5.")
    if images.ndim != 4 or not images.is_floating_point() or 0 in images.shape[1:]:
        raise ShapeMismatch(
            f"Images of the type {images.dtype} and the shape {tuple(images.shape)} were given; "
            "allowed is (N, C, H, W) in floating point."
        )
    if len(streams) != len(images):
        raise ShapeMismatch(f"{len(images)} images came with {len(streams)} streams.")

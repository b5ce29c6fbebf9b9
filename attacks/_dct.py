"""Smooth random images: few frequencies of a cosine transform, drawn from per-example streams."""

import functools
import math

import torch
from torch import Tensor

from robustkit.randomness import Streams


def smooth_normal(
    streams: Streams, shape: tuple[int, ...], reduction: float, *, draw: Tensor | int = 0
) -> Tensor:
    """(N, C, H, W) float32 noise made of the lowest 1 / `reduction` of the frequencies per axis.

    The coefficients are standard normal, so that with `reduction` 1 this is plain normal noise and
    the expected squared length is the number of coefficients, `dimensions(shape, reduction)`.
    """
    channels, height, width = shape
    kept = kept_frequencies(shape, reduction)
    if kept == (height, width):
        return streams.normal(shape, draw=draw)
    coefficients = streams.normal((channels, *kept), draw=draw)
    rows = cosines(height, kept[0], coefficients.device)
    columns = cosines(width, kept[1], coefficients.device)
    smooth: Tensor = rows.T @ coefficients @ columns
    return smooth


def dimensions(shape: tuple[int, ...], reduction: float) -> int:
    """How many coefficients `smooth_normal` draws for an image."""
    return shape[0] * math.prod(kept_frequencies(shape, reduction))


def kept_frequencies(shape: tuple[int, ...], reduction: float) -> tuple[int, int]:
    """How many frequencies are kept along height and width; at least one of each."""
    height, width = (max(1, math.ceil(side / reduction)) for side in shape[1:])
    return height, width


@functools.cache
def cosines(size: int, kept: int, device: torch.device) -> Tensor:
    """(kept, size) float32: the lowest vectors of the orthonormal cosine transform (DCT-II)."""
    places = torch.arange(size, dtype=torch.float64) + 0.5
    waves = torch.arange(kept, dtype=torch.float64)[:, None]
    basis = torch.cos(waves * places * (math.pi / size)) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis.float().to(device)

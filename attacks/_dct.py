"""Smooth random images: few frequencies of a cosine transform, drawn from per-example streams."""

import functools
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from robustkit.passes import padded
from robustkit.randomness import Streams


def smooth_noise(
    streams: Streams, shape: tuple[int, ...], reduction: float, *, draw: Tensor, width: int
) -> Tensor:
    """As `mixed_noise`, with one reduction for all rows."""
    kinds = torch.zeros_like(streams.ids)
    return mixed_noise(streams, shape, (reduction,), kinds, draw=draw, width=width)


def mixed_noise(
    streams: Streams,
    shape: tuple[int, ...],
    reductions: Sequence[float],
    kinds: Tensor,
    *,
    draw: Tensor,
    width: int,
) -> Tensor:
    """(N, C, H, W) float32 noise made of the lowest 1 / reduction of the frequencies per axis.

    The coefficients are standard normal, so that with a reduction of 1 this is plain normal noise
    and the expected squared length is the number of coefficients, `dimensions(shape, reduction)`.

    Args:
        streams: One for each row.
        shape: Of an image.
        reductions: Those that there are.
        kinds: (N,) int64, which of them each row has.
        draw: (N,) int64, the number of the draw in each stream.
        width: Rows in which the transform is computed: the last bits of a matrix product may depend
            on how many there are.
    """
    channels, *sides = shape
    sizes = [kept_frequencies(shape, reduction) for reduction in reductions]
    noise = torch.zeros(len(kinds), *shape, device=kinds.device)
    for number, (height, across) in enumerate(sizes):
        rows = (kinds == number).nonzero()[:, 0]
        if len(rows):
            drawn = streams.take(rows).normal((channels, height, across), draw=draw[rows])
            noise[rows, :, :height, :across] = drawn
    coarse = [list(size) != sides for size in sizes]
    waves = torch.tensor(coarse, device=kinds.device)[kinds].nonzero()[:, 0]
    if len(waves):
        height, across = (
            max(side) for side in zip(*itertools.compress(sizes, coarse), strict=True)
        )
        noise[waves] = _images(noise[waves, :, :height, :across], shape, width)
    return noise


def _images(waves: Tensor, shape: tuple[int, ...], width: int) -> Tensor:
    """(N, C, H, W) the images of the lowest frequencies' coefficients, (N, C, h, w)."""
    rows = cosines(shape[1], waves.shape[2], waves.device)
    columns = cosines(shape[2], waves.shape[3], waves.device)
    parts = [rows.T @ padded(part, width) @ columns for part in torch.split(waves, width)]
    return torch.cat(parts)[: len(waves)]


def dimensions(shape: tuple[int, ...], reduction: float) -> int:
    """How many coefficients `mixed_noise` draws for an image."""
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

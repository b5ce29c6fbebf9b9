"""Sums whose result does not depend on the order of their terms.

Libraries choose the order in which they add by the size of a batch, so that an image's last bits
depend on how many neighbours it has. Here values and weights are rounded to multiples of a power of
two that is coarse enough for every product and sum to be exact in float64: any order gives the same
bits.
"""

import functools
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustkit.errors import BadInput

# Values below 8 in steps of 2**-24 times weights that add up to 1 in steps of 2**-26 need 53 bits.
_VALUE = 2.0**24
_WEIGHT = 2.0**26

Edges = Literal["nearest", "symmetric", "mirror", "wrap"]
Matrix = NDArray[np.float64]


def along(images: Tensor, rows: Matrix, columns: Matrix) -> Tensor:
    """Replace each row and each column of pixels by weighted means of rows and columns.

    Args:
        images: (N, C, H, W), absolute values below 8.
        rows: (H', H) weights, in steps of 2**-26, as the functions below make them.
        columns: (W', W) likewise.

    Returns:
        (N, C, H', W') float32.
    """
    device = images.device
    sideways = torch.from_numpy(columns).to(device) * _WEIGHT
    upright = torch.from_numpy(rows).to(device) * _WEIGHT
    fine = (images.double() * _VALUE).round()
    fine = (torch.matmul(fine, sideways.T) / _WEIGHT).round()
    return (torch.matmul(upright, fine) / (_VALUE * _WEIGHT)).float()


def mean(images: Tensor) -> Tensor:
    """(N, C, 1, 1) float32: the mean over all pixels of (N, C, H, W) images."""
    fine = (images.double() * _VALUE).round()
    size = images.shape[2] * images.shape[3]
    return (fine.sum((2, 3), keepdim=True) / (_VALUE * size)).float()


@functools.lru_cache(maxsize=64)
def gaussian(size: int, sigma: float, truncate: float, edges: Edges) -> Matrix:
    """(size, size) weights of a Gaussian blur.

    Args:
        size: Pixels along the axis.
        sigma: Standard deviation in pixels; 0 blurs nothing.
        truncate: Where the kernel ends, in standard deviations.
        edges: What lies beyond the image.
    """
    reach = int(truncate * sigma + 0.5)
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2) if reach else np.ones(1)
    weights = np.zeros((size, size))
    for offset, weight in zip(offsets, kernel / kernel.sum(), strict=True):
        sources = folded(torch.arange(size) + int(offset), size, edges).numpy()
        np.add.at(weights, (np.arange(size), sources), weight)
    return _rounded(weights)


@functools.lru_cache(maxsize=64)
def boxes(size: int, length: int) -> Matrix:
    """(length, size) weights of resizing an axis, each new pixel the mean of those it covers."""
    # Twice the distance of their middles, in whole numbers: half pixels must not be rounded.
    apart = np.arange(1, 2 * size, 2) * length - np.arange(1, 2 * length, 2)[:, None] * size
    reach = max(size, length)
    weights = ((apart > -reach) & (apart <= reach)).astype(np.float64)
    return _rounded(weights / weights.sum(1, keepdims=True))


def _rounded(weights: Matrix) -> Matrix:
    """Weights in the steps that sums need; each row adds up to 1, so that grey stays grey."""
    steps = np.round(weights * _WEIGHT)
    largest = steps.argmax(1)
    steps[np.arange(len(steps)), largest] += _WEIGHT - steps.sum(1)
    return steps / _WEIGHT


def folded(places: Tensor, size: int, edges: Edges) -> Tensor:
    """Places beyond an axis, as the places on it whose pixels stand for them.

    Args:
        places: Any int64.
        size: Pixels along the axis.
        edges: `nearest` repeats the last pixel, `symmetric` continues with it backwards, `mirror`
            with the last but one, `wrap` with the first.

    Example:
        >>> [folded(torch.arange(-3, 6), 3, edges).tolist() for edges in ("symmetric", "mirror")]
        [[2, 1, 0, 0, 1, 2, 2, 1, 0], [1, 2, 1, 0, 1, 2, 1, 0, 1]]
    """
    if edges == "nearest":
        return places.clamp(0, size - 1)
    if edges == "symmetric":
        there = places.remainder(2 * size)
        return there.minimum(2 * size - 1 - there)
    if edges == "wrap":
        return places.remainder(size)
    if edges != "mirror":
        raise BadInput(f"The edges {edges!r} are unknown. Use nearest, symmetric, mirror or wrap.")
    period = max(2 * (size - 1), 1)
    there = places.remainder(period)
    return there.minimum(period - there) if size > 1 else torch.zeros_like(places)


def sampled(images: Tensor, y: Tensor, x: Tensor, edges: Edges) -> Tensor:
    """Read images between their pixels, linearly.

    Args:
        images: (N, C, H, W).
        y: (N, H', W') float32: where to read, in pixels from the middle of the first row.
        x: (N, H', W') likewise, in columns.
        edges: What lies beyond the image.

    Returns:
        (N, C, H', W').
    """
    height, width = images.shape[2:]
    top, left = y.floor(), x.floor()
    result = torch.zeros((*images.shape[:2], *y.shape[1:]), device=images.device)
    for row, row_weight in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, column_weight in ((left, 1 - (x - left)), (left + 1, x - left)):
            lines = folded(row.long(), height, edges)
            places = lines * width + folded(column.long(), width, edges)
            result = result + (row_weight * column_weight)[:, None] * read(images, places)
    return result


def read(images: Tensor, places: Tensor) -> Tensor:
    """(N, C, H', W') the pixels of (N, C, H, W) images at (N, H', W') flat places."""
    index = places.flatten(1)[:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, index).reshape(*images.shape[:2], *places.shape[1:])

"""A secret filter per class, and images filtered exactly."""

import math
from itertools import product
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from robustkit.data.computing import as_bytes
from robustkit.errors import BadInput
from robustkit.unlearnable.keys import Key, below

Rounding = Literal["floor", "round"]

# Taps are whole multiples of 2**-24, about as fine as float32.
ONE = 2**24
# Below this size, sums of 255 * tap * byte stay exact in float64, and so does their quotient.
LARGEST = 63
# Bytes of the images that are filtered together: what a CPU keeps near, and what fills a GPU.
_NEAR = 2 * 2**20
_FAR = 256 * 2**20


def class_filters(key: Key, classes: int, size: int, p_b: float) -> Tensor:
    """One filter per class, which only the key can give.

    Every tap is uniform on [0, p_b) but for one at a uniformly random place, which is 1. The filter
    of a class does not depend on how many others there are.

    Args:
        key: Gives the numbers.
        classes: How many filters.
        size: Rows and columns of a filter; odd, at most 63.
        p_b: The largest size of the other taps, in [0, 1].

    Returns:
        (classes, size, size) int64, in units of 2**-24.

    Raises:
        BadInput: A size or a p_b that is not allowed.
    """
    _check(size, p_b)
    highest = round(p_b * ONE)
    filters = torch.empty(classes, size * size, dtype=torch.int64)
    for label in range(classes):
        numbers = key.numbers(f"filter {label}")
        taps = [below(next(numbers), highest) for _ in range(size * size)]
        taps[below(next(numbers), size * size)] = ONE
        filters[label] = torch.tensor(taps)
    return filters.reshape(classes, size, size)


def legacy_filters(seed: int, classes: int, size: int, p_b: float) -> Tensor:
    """The filters that the authors' script draws from a seed of 32 bits, which can be guessed.

    Their order: per class (3, 1, size, size) uniform numbers, of which the first size * size count,
    then row and column of the tap that is 1.

    Args:
        seed: Of NumPy's legacy generator, which the script seeds globally.
        classes: How many filters.
        size: Rows and columns of a filter.
        p_b: The largest size of the other taps.

    Returns:
        As `class_filters`; taps are rounded to the nearest multiple of 2**-24.
    """
    _check(size, p_b)
    generator = np.random.RandomState(seed)
    filters = torch.empty(classes, size, size, dtype=torch.int64)
    for label in range(classes):
        taps = generator.uniform(0, p_b, (3, 1, size, size))[0, 0]
        row, column = generator.randint(size), generator.randint(size)
        taps[row, column] = 1
        filters[label] = torch.from_numpy(np.rint(taps * ONE).astype(np.int64))
    return filters


def filtered(
    stored: Tensor, labels: Tensor, filters: Tensor, *, rounding: Rounding = "floor"
) -> Tensor:
    """Images under the filter of their class, brightened until their largest value is 255.

    Cross-correlation without a flip, stride 1, zero padding, the same filter for all channels; then
    each image is divided by its largest value. One that is black, before or after, is copied.

    All sums are of whole numbers below 2**53 in float64 and every quotient rounds to the right
    side, so that the result is the exact one: no batch, order of addition or device can change a
    byte. Float32 convolutions differ in their last bits, and flat regions, whose quotients are
    whole numbers, turn that into whole levels.

    Args:
        stored: (N, C, H, W) uint8, or float32 in [0, 1], which is rounded to bytes first.
        labels: (N,) int64.
        filters: (classes, size, size) int64 in units of 2**-24, on the device to compute on.
        rounding: `floor` as the authors, or `round` to the nearest level, halves up.

    Returns:
        (N, C, H, W) uint8, where `stored` lies.

    Raises:
        BadInput: An unknown rounding.
    """
    if rounding not in get_args(Rounding):
        raise BadInput(
            f"The rounding is {rounding!r}; use one of: {', '.join(get_args(Rounding))}."
        )
    count, channels, height, width = stored.shape
    size = filters.shape[-1]
    sides = height + size - 1, width + size - 1
    area = channels * sides[0] * sides[1]
    near = filters.device.type == "cpu"
    step = min(max(1, (_NEAR if near else _FAR) // (16 * area)), max(count, 1))
    # Scaled by 255 from the start: one pass less over every image.
    taps = (255 * filters).double().flatten(1)
    padded = taps.new_zeros(step, channels, *sides)
    sums = taps.new_empty(step, area)
    out = torch.empty(stored.shape, dtype=torch.uint8, device=stored.device)
    for start in range(0, count, step):
        rows = slice(start, start + step)
        clean = as_bytes(stored[rows]).to(filters.device)
        inner = padded[: len(clean)]
        inner[:, :, size // 2 : size // 2 + height, size // 2 : size // 2 + width] = clean
        _correlate(inner.flatten(1), taps[labels[rows].to(filters.device)], sides[1], sums)
        changed = sums[: len(clean)].view_as(inner)[:, :, :height, :width]
        out[rows] = _levels(clean, changed, rounding)
    return out


def _correlate(flat: Tensor, taps: Tensor, width: int, sums: Tensor) -> None:
    """Add up padded images, (n, area), under each tap: a shift in two dimensions is one in memory.

    What the shifts carry over the edges ends in the padding, which nobody reads.
    """
    size = math.isqrt(taps.shape[1])
    length = flat.shape[1] - (size - 1) * (width + 1)
    total = sums[: len(flat), :length]
    for number, (top, left) in enumerate(product(range(size), repeat=2)):
        offset = top * width + left
        shifted, tap = flat[:, offset : offset + length], taps[:, number, None]
        if number:
            total.addcmul_(shifted, tap)
        else:
            torch.mul(shifted, tap, out=total)


def _levels(clean: Tensor, sums: Tensor, rounding: Rounding) -> Tensor:
    """(n, C, H, W) uint8 of sums of 255 * tap * byte, (n, C, H, W) float64, which are used up.

    A quotient that is no whole number misses one by 1 / (2 * largest) > 2**-45, the distance of two
    float64 numbers below 256: it cannot be rounded up to it.
    """
    largest = sums.amax((1, 2, 3), keepdim=True).div_(255)
    black = largest == 0
    largest = largest.clamp_min(1)
    if rounding == "round":
        sums, largest = sums.mul_(2).add_(largest), 2 * largest
    # The cast cuts off, and casting to int32 first is several times faster on a CPU.
    levels = sums.div_(largest).to(torch.int32).to(torch.uint8)
    return torch.where(black, clean, levels)


def _check(size: int, p_b: float) -> None:
    if size < 1 or size % 2 == 0 or size > LARGEST:
        raise BadInput(f"The filter's size is {size}; it must be odd and at most {LARGEST}.")
    if not 0 <= p_b <= 1:
        raise BadInput(f"p_b is {p_b}; it must lie in [0, 1].")

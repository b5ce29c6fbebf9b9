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
    out = torch.empty(stored.shape, dtype=torch.uint8, device=stored.device)
    near = filters.device.type == "cpu"
    room = (_NEAR if near else _FAR) // (16 * stored.shape[1:].numel())
    step = min(max(1, room), len(stored))
    # Scaled by 255 from the start: one pass less over every image.
    taps = (255 * filters).double().flatten(1).T[..., None].contiguous()
    desk = _Desk(taps, (step, *stored.shape[1:]), filters.shape[-1], rounding)
    labels = labels.to(filters.device)
    for end in range(step, len(stored) + step, max(step, 1)):
        # The last batch is full too: some images go through it twice, to the same result.
        rows = slice(min(end, len(stored)) - step, min(end, len(stored)))
        out[rows] = desk.filtered(as_bytes(stored[rows]), labels[rows])
    black = out.flatten(1).amax(1) == 0
    out[black] = as_bytes(stored[black])
    return out


class _Desk:
    """Room for the sums of a batch of one size, laid out once.

    Rows are followed by half a filter of nought, which is the padding of the next row too, and
    channels by as many rows; so a shift in two dimensions is one in memory.
    """

    def __init__(self, taps: Tensor, shape: tuple[int, ...], size: int, rounding: Rounding) -> None:
        """Args: (size**2, classes, 1) taps, the shape of a batch, rows of a filter, rounding."""
        count, channels, height, width = shape
        half = size // 2
        grid = (count, channels, height + half, width + half)
        area, step = math.prod(grid[1:]), grid[3]
        padded = taps.new_zeros(count, area + (size - 1) * (step + 1))
        offsets = [top * step + left for top, left in product(range(size), repeat=2)]
        self._taps, self._round = taps, rounding == "round"
        self._shifted = [padded[:, start : start + area] for start in offsets]
        self._inner = self._shifted[len(offsets) // 2].view(grid)[..., :height, :width]
        self._total = taps.new_empty(count, area)
        self._sums = self._total.view(grid)[..., :height, :width]
        self._levels = torch.empty_like(self._total, dtype=torch.int32)
        self._shown = self._levels.view(grid)[..., :height, :width]

    def filtered(self, images: Tensor, labels: Tensor) -> Tensor:
        """(n, C, H, W) int32 levels of a batch of bytes; black where all sums are nought.

        A quotient that is no whole number misses one by at least 1 / (2 * largest) > 2**-45, the
        distance of two float64 numbers below 256: it cannot be rounded up to it.
        """
        self._inner.copy_(images)
        first, *others = self._taps[:, labels].unbind(0)
        torch.mul(self._shifted[0], first, out=self._total)
        for shifted, tap in zip(self._shifted[1:], others, strict=True):
            self._total.addcmul_(shifted, tap)
        largest = self._sums.amax((1, 2, 3))[:, None].div_(255).clamp_min_(1)
        if self._round:
            self._total.mul_(2).add_(largest)
            largest.mul_(2)
        # The cast cuts off; to bytes it is several times slower from float64 than from int32.
        self._levels.copy_(self._total.div_(largest))
        return self._shown


def _check(size: int, p_b: float) -> None:
    if size < 1 or size % 2 == 0 or size > LARGEST:
        raise BadInput(f"The filter's size is {size}; it must be odd and at most {LARGEST}.")
    if not 0 <= p_b <= 1:
        raise BadInput(f"p_b is {p_b}; it must lie in [0, 1].")

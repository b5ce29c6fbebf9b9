"""Autoregressive noise: each pixel a fixed mixture of its neighbours."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from robustkit.data import LabelledImages
from robustkit.errors import BadInput
from robustkit.randomness import Streams
from robustkit.unlearnable.additive import Additive, Pattern, of_classes

# A window of 3 x 3 pixels, row by row, without its last, which is what the others make.
_WINDOW = 3
_TAPS = tuple(divmod(place, _WINDOW) for place in range(_WINDOW**2 - 1))
# Rows and columns in which the random start shows, cut off.
_MARGIN = 4
# Coefficients are drawn in blocks, at most so many for each that is wanted: more than a fifth makes
# fields that do not grow.
_DRAWN = 6
_BLOCK = 256
# How different two processes are shows on images of this side.
_SIDE = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class AR(Additive):
    """Noise in which a filter of 3 x 3 pixels answers nothing for one class and much for others.

    Each class has a process: 8 coefficients per channel that add up to 1. A field starts at random
    and is filled row by row, each value the mixture of those above and to the left; then four rows
    and columns are cut off and the rest is scaled to the radius. It needs neither a model nor the
    images.

    Published with the l2 radius 1 for images of 32 x 32 x 3, and with 8/255 in linf.

    Attributes:
        candidates: Stable processes from which those are picked that differ most; at least four
            per class are tried.

    Raises:
        BadInput: No candidates; on running, fewer stable ones than classes.

    Reference:
        Sandoval-Segura, Singla, Geiping, Goldblum, Goldstein, Jacobs: Autoregressive perturbations
        for data poisoning. NeurIPS 2022.

    Differs from the reference:
        Processes are found on running and not read from a table: those whose field does not grow,
        tested channel by channel, and of these greedily the one whose least answer to and from all
        that are picked already is largest, where the reference takes the first above a threshold
        chosen per data set. Fields are filled along diagonals, all images of a batch at once: the
        same values in about 70 steps in place of 1,156 per image and channel. Any height, width and
        number of channels. Bytes are rounded towards the clean image.
    """

    candidates: int = 256

    def __post_init__(self) -> None:
        """Refuse what offers no choice."""
        if self.candidates < 1:
            raise BadInput(f"AR picks from {self.candidates} candidates; give 1 or more.")

    def pattern(self, data: LabelledImages, streams: Streams) -> Pattern:
        """Fields of each class's process."""
        processes = self.processes(data, streams)
        return lambda labels, own: fields(processes[labels], own.fork("field"), data.shape)

    def processes(self, data: LabelledImages, streams: Streams) -> Tensor:
        """(K, C, 8) float32: the coefficients of each class, in the order of the window.

        Raises:
            BadInput: Too few of those drawn are stable.
        """
        shared = of_classes(data, streams, "autoregressive").take([0])
        channels = data.shape[0]
        wanted = max(self.candidates, 4 * data.classes)
        found = stable(shared, wanted * channels, data.shape)
        whole = len(found) // channels * channels
        pool = found[:whole].reshape(-1, channels, len(_TAPS))
        if len(pool) < data.classes:
            raise BadInput(
                f"AR found {len(pool)} stable processes for {data.classes} classes. Give more "
                "candidates."
            )
        numbers = torch.arange(len(pool), device=pool.device)
        own = Streams.of(seed=shared.key, ids=numbers, purpose="trial")
        _, height, width = data.shape
        trials = fields(pool, own, (channels, min(height, _SIDE), min(width, _SIDE)))
        return pool[_apart(pool, trials, data.classes)]


def fields(coefficients: Tensor, streams: Streams, shape: tuple[int, int, int]) -> Tensor:
    """(n, C, H, W) float32: a field of each process from a random start.

    Args:
        coefficients: (n, C, 8).
        streams: n of them.
        shape: (C, H, W).
    """
    channels, height, width = shape
    rows, columns = height + _MARGIN, width + _MARGIN
    field = streams.normal((channels, rows, columns))
    flat = field.view(len(field), channels, -1)
    before = _WINDOW - 1
    # Along a diagonal from the upper right to the lower left: a stride in memory.
    stride = columns - 1
    for diagonal in range(2 * before, rows + columns - 1):
        top, bottom = max(before, diagonal - columns + 1), min(rows - 1, diagonal - before)
        first = top * columns + diagonal - top
        length = (bottom - top) * stride + 1
        # One product after the other: the same bits however many images share the batch.
        value = torch.zeros_like(flat[:, :, first : first + length : stride])
        for tap, (y, x) in enumerate(_TAPS):
            source = first - (before - y) * columns - (before - x)
            neighbour = flat[:, :, source : source + length : stride]
            value += coefficients[:, :, tap, None] * neighbour
        flat[:, :, first : first + length : stride] = value
    return field[:, :, _MARGIN:, _MARGIN:]


def stable(streams: Streams, wanted: int, shape: tuple[int, int, int]) -> Tensor:
    """(n, 8) float32: at most so many coefficients of one channel whose field does not grow.

    Args:
        streams: One stream.
        wanted: How many.
        shape: (C, H, W) of the images.
    """
    found = torch.empty(0, len(_TAPS), device=streams.ids.device)
    numbers = torch.arange(_BLOCK, device=found.device)
    for block in range(math.ceil(_DRAWN * wanted / _BLOCK)):
        if len(found) >= wanted:
            break
        drawn = streams.fork("coefficients").normal((_BLOCK, len(_TAPS)), draw=block)[0]
        drawn = drawn / drawn.sum(1, keepdim=True)
        trials = Streams.of(seed=streams.key, ids=numbers, purpose="growth").on_lanes(block)
        field = fields(drawn[:, None], trials, (1, *shape[1:]))
        # A field that grows beyond float32 is NaN, which fails the comparison.
        found = torch.cat([found, drawn[field.square().mean((1, 2, 3)) <= 1]])
    return found[:wanted]


def filters(coefficients: Tensor) -> Tensor:
    """(n, C, 3, 3): what answers nothing to the fields of its own process."""
    closing = torch.full_like(coefficients[:, :, :1], -1)
    return torch.cat([coefficients, closing], dim=2).reshape(*coefficients.shape[:2], 3, 3)


def _apart(pool: Tensor, trials: Tensor, count: int) -> Tensor:
    """(count,) rows of the pool, each far from all before it.

    Args:
        pool: (P, C, 8) processes.
        trials: (P, C, H, W) a field of each.
        count: How many.
    """
    trials = trials / trials.flatten(1).norm(dim=1).clamp_min(1e-30).reshape(-1, 1, 1, 1)
    lenses = filters(pool)
    # How little any one that is picked answers to each, or each to it.
    least = torch.full((len(pool),), torch.inf, device=pool.device)
    picked = [0]
    for _ in range(count - 1):
        last = picked[-1]
        to_last = F.conv2d(trials, lenses[last : last + 1]).relu().flatten(1).sum(1)
        from_last = F.conv2d(trials[last : last + 1], lenses).relu()[0].flatten(1).sum(1)
        least = least.minimum(to_last).minimum(from_last)
        least[last] = -torch.inf
        picked.append(int(least.argmax()))
    return torch.tensor(picked, device=pool.device)

"""One leaked original per class: enough to undo a change by convolution."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from robustkit.errors import BadInput
from robustkit.randomness import Streams
from robustkit.training import Augmentation
from robustkit.unlearnable.learners.base import Learner, Lesson

# What is held for noise, as a share of the signal's power.
_NOISE = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Deconvolve:
    """Undo the filter of each image's class by Wiener's filter; the brightest pixel becomes 1.

    Attributes:
        filters: (K, k, k) one per class, applied as cross-correlation.
        noise: Power of the noise as a share of the signal's.
    """

    filters: Tensor
    noise: float

    def __call__(
        self, inputs: Tensor, labels: Tensor, *, classes: int, streams: Streams
    ) -> tuple[Tensor, Tensor]:
        """Each image by itself; labels stay."""
        filters = self.filters.to(inputs.device)[labels]
        return deconvolved(inputs, filters, self.noise), labels


def deconvolved(images: Tensor, filters: Tensor, noise: float) -> Tensor:
    """What (N, C, H, W) images were before (N, k, k) cross-correlations, up to their brightness.

    Reference:
        Wiener: Extrapolation, interpolation, and smoothing of stationary time series. 1949.
    """
    height, width = images.shape[2:]
    side = filters.shape[1]
    # Room for what the filter reaches beyond the edges, so that they do not meet.
    area = (height + side - 1, width + side - 1)
    centred = F.pad(filters, (0, area[1] - side, 0, area[0] - side))
    centred = centred.roll((-(side // 2), -(side // 2)), (1, 2))
    # Correlation multiplies by the conjugate, so that its inverse has the spectrum itself.
    spectrum = torch.fft.rfft2(centred)[:, None]
    power = spectrum.abs() ** 2
    level = noise * power.mean((2, 3), keepdim=True)
    found = torch.fft.rfft2(images, s=area) * spectrum / (power + level)
    back: Tensor = torch.fft.irfft2(found, s=area)[:, :, :height, :width].clamp_min(0)
    return back / back.amax((1, 2, 3), keepdim=True).clamp_min(1e-6)


def recovered_filter(original: Tensor, published: Tensor, side: int) -> Tensor:
    """(side, side): the filter that makes one (C, H, W) image of another, its largest tap 1.

    Least squares over the pixels that are neither black nor white, with a constant for what
    rounding has taken off.
    """
    channels = len(original)
    windows = F.unfold(original[:, None].double(), side, padding=side // 2)
    rows = windows.transpose(1, 2).reshape(channels * original[0].numel(), side**2)
    values = published.double().reshape(-1, 1)
    inside = (values[:, 0] > 0) & (values[:, 0] < 1)
    system = F.pad(rows[inside], (0, 1), value=1.0)
    if not len(system):
        return _identity(side)
    # The driver that takes a flat image too, whose taps are not determined.
    taps = torch.linalg.lstsq(system, values[inside], driver="gelsd").solution[:-1, 0]
    largest = taps.abs().max()
    return (taps / largest).float().view(side, side) if largest > 0 else _identity(side)


def _identity(side: int) -> Tensor:
    return F.pad(torch.ones(1, 1), (side // 2,) * 4)


@dataclass(frozen=True, kw_only=True)
class KeyLeak(Learner):
    """Knows one original per class, computes the class's filter from it and undoes it everywhere.

    It says what a single leaked original is worth, and how much of the protection rests on there
    being none. Of the noise levels that Wiener's filter may assume, it takes the one that gives
    the leaked originals back best.

    Attributes:
        side: Of the filters, as the publisher's method is known to have them.

    Raises:
        BadInput: An even side, or none.
    """

    argument = "side"

    side: int = 3

    def __post_init__(self) -> None:
        """Refuse what has no middle."""
        if self.side < 1 or self.side % 2 == 0:
            raise BadInput(f"Filters of side {self.side} have no middle; give an odd side.")

    def augmentation(self, lesson: Lesson) -> tuple[Augmentation, ...]:
        """Undo the filters."""
        rows = _leaked(lesson)
        originals, published = lesson.originals.inputs(rows), lesson.data.inputs(rows)
        filters = torch.stack(
            [
                recovered_filter(original, changed, self.side)
                for original, changed in zip(originals, published, strict=True)
            ]
        )
        noise = min(
            _NOISE, key=lambda level: _distance(deconvolved(published, filters, level), originals)
        )
        known = _identity(self.side).repeat(lesson.data.classes, 1, 1)
        known[lesson.data.labels[rows]] = filters
        return (Deconvolve(filters=known, noise=noise),)


def _leaked(lesson: Lesson) -> Sequence[int]:
    """One row of every class that there is: the first."""
    first: dict[int, int] = {}
    for row, label in enumerate(lesson.data.labels.tolist()):
        first.setdefault(label, row)
    return list(first.values())


def _distance(found: Tensor, originals: Tensor) -> float:
    """How far images are from others, whatever their brightness."""
    brightest = originals.amax((1, 2, 3), keepdim=True).clamp_min(1e-6)
    return float((found - originals / brightest).square().mean())

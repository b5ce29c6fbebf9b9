"""Random sharpening and frequency filtering: against changes by convolution."""

import functools
from dataclasses import dataclass

import torch
from scipy.fft import dct
from torch import Tensor
from torch.nn import functional as F

from robustkit.errors import BadInput
from robustkit.randomness import Streams
from robustkit.training import Augmentation, Crop, Flip
from robustkit.unlearnable.learners.base import Learner, Lesson, margin

# (row, column) of what lies above, left of, right of and below a pixel, in a window of three.
_NEIGHBOURS = ((0, 1), (1, 0), (1, 2), (2, 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class Sharpen:
    """Sharpen each image by a random kernel of its own; the border is lost to black.

    Attributes:
        centre: Mean of the kernel's middle; its four neighbours share what is above 1.
        spread: Standard deviation of each of the five.
    """

    centre: float = 2.5
    spread: float = 0.1

    def __call__(
        self, inputs: Tensor, labels: Tensor, *, classes: int, streams: Streams
    ) -> tuple[Tensor, Tensor]:
        """All channels by the same kernel; labels stay."""
        noise = self.spread * streams.normal((5, 1, 1, 1))
        centre = self.centre + noise[:, 0]
        height, width = inputs.shape[2] - 2, inputs.shape[3] - 2
        sharp = centre * inputs[:, :, 1:-1, 1:-1]
        for place, (row, column) in enumerate(_NEIGHBOURS, start=1):
            part = inputs[:, :, row : row + height, column : column + width]
            sharp = sharp - ((centre - 1) / 4 + noise[:, place]) * part
        return F.pad(sharp.clamp(0, 1), (1, 1, 1, 1)), labels


@dataclass(frozen=True, kw_only=True, slots=True)
class LowPass:
    """Keep the lowest frequencies of the cosine transform, within a border that stays black.

    Attributes:
        share: Of the rows and of the columns of coefficients.
    """

    share: float = 0.3

    def __call__(
        self, inputs: Tensor, labels: Tensor, *, classes: int, streams: Streams
    ) -> tuple[Tensor, Tensor]:
        """Each image by itself; labels stay."""
        inner = inputs[:, :, 1:-1, 1:-1]
        rows, columns = (
            low_pass(side, self.share).to(inputs.device, inputs.dtype) for side in inner.shape[2:]
        )
        return F.pad((rows @ inner @ columns).clamp(0, 1), (1, 1, 1, 1)), labels


@functools.lru_cache(maxsize=16)
def low_pass(side: int, share: float) -> Tensor:
    """(side, side): the orthogonal projection onto the lowest cosine frequencies of an axis."""
    basis = torch.from_numpy(dct(torch.eye(side).numpy(), axis=0, norm="ortho"))
    kept = basis[: max(1, int(side * share))]
    return kept.T @ kept


@dataclass(frozen=True, kw_only=True)
class RSKFF(Learner):
    """Every training image is sharpened at random, and only its low frequencies are kept.

    Attributes:
        centre: Mean of the sharpening kernel's middle.
        share: Of the frequencies of each axis that is kept.

    Raises:
        BadInput: A share that keeps nothing.

    Reference:
        Kim, Sandoval-Segura: Learning from convolution-based unlearnable datasets. AdvML-Frontiers
        workshop at NeurIPS 2024.

    Differs from the reference:
        The schedule is the trainer's, and inputs are not normalised.
    """

    argument = "share"

    centre: float = 2.5
    share: float = 0.3

    def __post_init__(self) -> None:
        """Refuse what keeps nothing."""
        if not 0 < self.share <= 1:
            raise BadInput(f"The share of frequencies kept is {self.share}; it lies in (0, 1].")

    def augmentation(self, lesson: Lesson) -> tuple[Augmentation, ...]:
        """Sharpen, filter, crop, flip."""
        # Of the padding of a crop one pixel is there already: the lost border.
        crop = Crop(padding=margin(lesson.data) - 1)
        return Sharpen(centre=self.centre), LowPass(share=self.share), crop, Flip()

"""Learners that throw away what hides small changes: fine detail, or colour."""

from dataclasses import dataclass

import torch
from torch import Tensor

from robustkit.corruptions.digital import jpeg_compression
from robustkit.data import LabelledImages
from robustkit.errors import BadInput
from robustkit.randomness import Streams
from robustkit.training import Augmentation
from robustkit.unlearnable.learners.base import Learner, Lesson, crop_and_flip

# How bright the three primaries look: ITU-R BT.601.
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, kw_only=True, slots=True)
class Compress:
    """Code every image as JPEG and decode it.

    Attributes:
        quality: As coders count it, 1 to 100.
    """

    quality: int

    def __call__(
        self, inputs: Tensor, labels: Tensor, *, classes: int, streams: Streams
    ) -> tuple[Tensor, Tensor]:
        """Each image by itself; labels stay."""
        return jpeg_compression(inputs, streams, self.quality), labels


@dataclass(frozen=True, kw_only=True, slots=True)
class Grey:
    """Give all three channels the brightness of the pixel."""

    def __call__(
        self, inputs: Tensor, labels: Tensor, *, classes: int, streams: Streams
    ) -> tuple[Tensor, Tensor]:
        """Each image by itself; labels stay."""
        weights = torch.tensor(_LUMA, device=inputs.device)[:, None, None]
        return (inputs * weights).sum(1, keepdim=True).expand_as(inputs).contiguous(), labels


@dataclass(frozen=True, kw_only=True)
class JPEG(Learner):
    """Training images are coded as JPEG of low quality before they are cropped and flipped.

    Attributes:
        quality: As coders count it, 1 to 100.

    Raises:
        BadInput: No such quality.

    Reference:
        Liu, Zhao, Larson: Image shortcut squeezing: countering perturbative availability poisons
        with compression. ICML 2023.
    """

    argument = "quality"

    quality: int = 10

    def __post_init__(self) -> None:
        """Refuse what no coder knows."""
        if not 1 <= self.quality <= 100:
            raise BadInput(f"The JPEG quality is {self.quality}; it lies between 1 and 100.")

    def augmentation(self, lesson: Lesson) -> tuple[Augmentation, ...]:
        """Code, crop, flip."""
        return (Compress(quality=self.quality), *crop_and_flip(lesson.data))


@dataclass(frozen=True, kw_only=True)
class Grayscale(Learner):
    """Training images lose their colours before they are cropped and flipped.

    Reference:
        Liu, Zhao, Larson: Image shortcut squeezing: countering perturbative availability poisons
        with compression. ICML 2023.
    """

    def why_not(self, data: LabelledImages) -> str | None:
        """Grey images have no colours to lose."""
        if data.shape[0] == 3:
            return None
        return f"the images have no colours to lose: {data.shape[0]} channel, and it needs 3"

    def augmentation(self, lesson: Lesson) -> tuple[Augmentation, ...]:
        """Grey, crop, flip."""
        return (Grey(), *crop_and_flip(lesson.data))

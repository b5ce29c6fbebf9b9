"""Random displacement of every pixel: against changes by convolution."""

from dataclasses import dataclass

import torch
from torch import Tensor

from robustkit.corruptions.exact import sampled
from robustkit.errors import BadInput
from robustkit.randomness import Streams
from robustkit.training import Augmentation
from robustkit.unlearnable.learners.base import Learner, Lesson, crop_and_flip


@dataclass(frozen=True, kw_only=True, slots=True)
class Scatter:
    """Read every pixel from a random place near its own, linearly between pixels.

    Attributes:
        reach: How far the place may be, up or down and left or right, in pixels.
    """

    reach: float = 2.0

    def __call__(
        self, inputs: Tensor, labels: Tensor, *, classes: int, streams: Streams
    ) -> tuple[Tensor, Tensor]:
        """All channels alike; an image goes on at its other side. Labels stay."""
        height, width = inputs.shape[2:]
        y, x = (torch.arange(side, device=inputs.device) for side in (height, width))
        moves = streams.uniform((2, height, width), -self.reach, self.reach)
        return sampled(inputs, y[:, None] + moves[:, 0], x + moves[:, 1], "wrap"), labels


@dataclass(frozen=True, kw_only=True)
class COIN(Learner):
    """Every pixel of a training image comes from a random place nearby, after crop and flip.

    Attributes:
        reach: How far each pixel may move, in pixels.

    Raises:
        BadInput: A reach that moves nothing.

    Reference:
        Li, Wang et al.: Detecting and corrupting convolution-based unlearnable examples. AAAI 2025.

    Differs from the reference:
        Images are not rounded to bytes afterwards; beyond an edge they go on at the other side from
        its very first pixel. The schedule is the trainer's.
    """

    argument = "reach"

    reach: float = 2.0

    def __post_init__(self) -> None:
        """Refuse what moves nothing."""
        if not 0 < self.reach < float("inf"):
            raise BadInput(f"The pixels move by up to {self.reach}; give a number above 0.")

    def augmentation(self, lesson: Lesson) -> tuple[Augmentation, ...]:
        """Crop, flip, scatter."""
        return (*crop_and_flip(lesson.data), Scatter(reach=self.reach))

"""Strong augmentation of brightness, contrast, channels and shape: against added noise."""

from dataclasses import dataclass

import torch
from torch import Tensor

from robustkit.corruptions.textures import plasma
from robustkit.randomness import Streams
from robustkit.training import Augmentation, TrivialAugment
from robustkit.unlearnable.learners.base import Learner, Lesson, crop_and_flip

# Half as much noise at each finer scale: the middle of the published range.
_DECAY = 2**0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Clouds:
    """Clouds of brightness over half of the images, clouds of contrast over half of them.

    Attributes:
        probability: Of each kind of cloud.
        weakest: Least strength of a cloud of brightness; the most is 1.
    """

    probability: float = 0.5
    weakest: float = 0.5

    def __call__(
        self, inputs: Tensor, labels: Tensor, *, classes: int, streams: Streams
    ) -> tuple[Tensor, Tensor]:
        """Each image and channel has clouds of its own; labels stay."""
        brighter, sharper = streams.fork("brightness"), streams.fork("contrast")
        strength = brighter.uniform((1, 1, 1), self.weakest, 1.0, draw=1)
        lit = (inputs + strength * (2 * _clouds(brighter, inputs) - 1)).clamp(0, 1)
        inputs = torch.where(brighter.uniform((1, 1, 1)) < self.probability, lit, inputs)
        strong = ((inputs - 0.5) * 4 * _clouds(sharper, inputs) + 0.5).clamp(0, 1)
        return torch.where(sharper.uniform((1, 1, 1)) < self.probability, strong, inputs), labels


def _clouds(streams: Streams, like: Tensor) -> Tensor:
    """(N, C, H, W) in [0, 1]."""
    channels, height, width = like.shape[1:]
    parts = [
        plasma(streams.fork(f"channel {number}"), height, width, _DECAY)
        for number in range(channels)
    ]
    return torch.stack(parts, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shuffle:
    """Exchange the channels of an image at random.

    Attributes:
        probability: Of doing so.
    """

    probability: float = 0.5

    def __call__(
        self, inputs: Tensor, labels: Tensor, *, classes: int, streams: Streams
    ) -> tuple[Tensor, Tensor]:
        """Each image by itself; labels stay."""
        order = streams.permutation(inputs.shape[1], draw=1)[:, :, None, None].expand_as(inputs)
        chosen = streams.uniform((1, 1, 1)) < self.probability
        return torch.where(chosen, inputs.gather(1, order), inputs), labels


@dataclass(frozen=True, kw_only=True)
class UEraser(Learner):
    """One draw of strong augmentation per image and epoch, the variant called UEraser-Lite.

    Reference:
        Qin, Gao, Zhao, Ye, Xu: Learning the unlearnable: adversarial augmentations suppress
        unlearnable example attacks. 2023.

    Differs from the reference:
        The clouds' roughness is the middle of the published range and not drawn, TrivialAugment is
        torchvision's, and the schedule is the trainer's.
    """

    def augmentation(self, lesson: Lesson) -> tuple[Augmentation, ...]:
        """Crop, flip, clouds, channels, then TrivialAugment."""
        return (*crop_and_flip(lesson.data), Clouds(), Shuffle(), TrivialAugment())

"""The contract of learners: who trains on published data, and what they do against its change."""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from robustkit.data import LabelledImages
from robustkit.training import Augmentation, Crop, Flip, Trainer
from robustkit.training.losses import Loss, cross_entropy


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    """What a learner is given.

    Attributes:
        data: The training data as it was published.
        originals: What it was made from, in the same order; a learner may look at what has leaked.
        network: Makes a new network of the architecture that is being tried.
        trainer: How to train, but for what is the learner's own.
    """

    data: LabelledImages
    originals: LabelledImages
    network: Callable[[], nn.Module]
    trainer: Trainer


@dataclass(frozen=True, kw_only=True)
class Learner:
    """Trains on published data; test images stay as they are.

    Subclasses are frozen keyword-only dataclasses of hyper-parameters: no data, no model, no state.
    What they do not say is that of the trainer.

    Attributes:
        argument: The hyper-parameter that a word behind the learner's name sets; none if empty.
    """

    argument: ClassVar[str] = ""

    def why_not(self, data: LabelledImages) -> str | None:
        """The reason why this learner cannot work on such data; None if it can."""
        return None

    def network(self, lesson: Lesson) -> nn.Module:
        """What is trained."""
        return lesson.network()

    def augmentation(self, lesson: Lesson) -> tuple[Augmentation, ...]:
        """What is done to every batch of training images, in order."""
        return ()

    def trainer(self, lesson: Lesson) -> Trainer:
        """Who trains."""
        return dataclasses.replace(lesson.trainer, augmentation=self.augmentation(lesson))

    def loss(self) -> Loss:
        """What is lowered."""
        return cross_entropy

    def parameters(self, network: nn.Module) -> Iterable[nn.Parameter] | None:
        """What is changed in the network; None for all."""
        return None


def margin(data: LabelledImages) -> int:
    """An eighth of an image's side: the padding that crops of 32 pixels usually have, 4."""
    return max(1, round(max(data.shape[1:]) / 8))


def crop_and_flip(data: LabelledImages) -> tuple[Augmentation, ...]:
    """The augmentation that most work on small images starts from."""
    return Crop(padding=margin(data)), Flip()

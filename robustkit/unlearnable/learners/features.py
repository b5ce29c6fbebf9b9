"""Features from elsewhere: a learner that needs little of the published data."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from robustkit import models
from robustkit.data import LabelledImages
from robustkit.errors import BadInput
from robustkit.models.layers import initialize, seeded
from robustkit.training import Augmentation, Trainer
from robustkit.unlearnable.learners.base import Learner, Lesson, crop_and_flip


@dataclass(frozen=True, kw_only=True)
class PretrainedFeatures(Learner):
    """A new last layer on a model that has learnt elsewhere; all others stay as they are.

    Attributes:
        model: The words that name the model, such as a folder that `robustkit train` wrote.

    Reference:
        Sadasivan, Soltanolkotabi, Feizi: CUDA: convolution-based unlearnable datasets. CVPR 2023,
        which takes a model of ImageNet.
    """

    argument = "model"

    model: str = ""

    def why_not(self, data: LabelledImages) -> str | None:
        """There must be such a model."""
        return None if self.model else "no model is given: write pretrained-features:DIR"

    def network(self, lesson: Lesson) -> nn.Module:
        """The model, with a last layer for the data's classes.

        Raises:
            BadInput: It has no linear layer, or there is no such model.
        """
        if models.needs_weights(self.model):
            raise BadInput(
                f"{self.model!r} is an architecture without weights, which has no features yet. "
                "Give the folder of a trained model."
            )
        network = models.load(self.model)
        name, last = _last(network)
        with seeded(lesson.trainer.seed):
            new = nn.Linear(last.in_features, lesson.data.classes)
            initialize(new)
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, new)
        return network

    def augmentation(self, lesson: Lesson) -> tuple[Augmentation, ...]:
        """Crop and flip."""
        return crop_and_flip(lesson.data)

    def trainer(self, lesson: Lesson) -> Trainer:
        """One that leaves the statistics of batch norm alone too."""
        return dataclasses.replace(super().trainer(lesson), batch_norm="frozen")

    def parameters(self, network: nn.Module) -> Iterable[nn.Parameter]:
        """The last layer's."""
        return _last(network)[1].parameters()


def _last(network: nn.Module) -> tuple[str, nn.Linear]:
    """The name of the last linear layer, and the layer."""
    layers = [
        (name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)
    ]
    if not layers:
        raise BadInput(
            f"The model {type(network).__name__} has no linear layer that could be learnt anew."
        )
    return layers[-1]

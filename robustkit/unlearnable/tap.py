"""Adversarial examples as training data: images that show a model the next class."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from robustkit.attacks.base import Learner, Poisoned, PoisoningAttack
from robustkit.data import LabelledImages
from robustkit.errors import BadInput
from robustkit.randomness import Streams
from robustkit.threat_models import ThreatModel
from robustkit.training.augmentation import Augmentation, Crop, Flip
from robustkit.training.losses import cross_entropy, held
from robustkit.training.losses.inner import maximise
from robustkit.unlearnable.publishing import publish, settled
from robustkit.unlearnable.share import stratified
from robustkit.unlearnable.surrogates import surrogate, towards, views


@dataclass(frozen=True, kw_only=True, slots=True)
class TAP(PoisoningAttack):
    """Targeted adversarial poisoning.

    A model is trained on the clean images by the trainer. Then each image is moved, through random
    crops and flips, until this model sees the class after the label, while the published label
    stays: whoever learns from that takes the features of one class for those of another.

    Published with the linf radius 8/255.

    Attributes:
        architecture: Of the model, as `robustkit.models.load` takes it.
        steps: Along the gradient's sign, or its direction in l2.
        step_size: In units of the radius; 0.064/255 of 8/255.
        augmentation: Through which the images are moved, another draw at each step.

    Raises:
        BadInput: A hyper-parameter that means nothing; on running, data with one class.

    Reference:
        Fowl, Goldblum, Chiang, Geiping, Czaja, Goldstein: Adversarial examples make strong poisons.
        NeurIPS 2021.

    Differs from the reference:
        The model is trained on the clean images as the trainer says, whose augmentation is its own.
        Bytes are rounded towards the clean image.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2"})

    architecture: str = "resnet-18"
    steps: int = 250
    step_size: float = 0.008
    augmentation: Sequence[Augmentation] = (Crop(), Flip())

    def __post_init__(self) -> None:
        """Refuse hyper-parameters that mean nothing."""
        if self.steps < 1 or not self.step_size > 0:
            raise BadInput(
                f"TAP takes {self.steps} steps of {self.step_size} radii; give at least 1 step and "
                "a size above 0."
            )

    def run(
        self, data: LabelledImages, threat: ThreatModel, *, trainer: Learner, streams: Streams
    ) -> Poisoned:
        """Change training data; see `PoisoningAttack.run`."""
        self.check(threat)
        if data.classes < 2:
            raise BadInput("TAP shows another class than the label's: give data of 2 or more.")
        allowed = threat.allowed
        model = surrogate(self.architecture, data, streams)
        trainer.fit(model, data, cross_entropy)

        def change(_: Tensor, clean: Tensor, labels: Tensor, own: Streams) -> Tensor:
            step = itertools.count()
            return maximise(
                lambda inputs: model(
                    views(self.augmentation, inputs, own.fork(f"view {next(step)}"))
                ),
                clean,
                towards((labels + 1) % data.classes),
                allowed,
                steps=self.steps,
                step_size=self.step_size,
                start="uniform",
                streams=own,
            )

        mask = stratified(data.labels, threat.budget.poison_rate or 0.0, streams)
        with held(model):
            return settled(publish(data, mask, allowed, change, name="TAP", streams=streams))

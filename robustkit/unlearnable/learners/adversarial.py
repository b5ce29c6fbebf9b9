"""Learners that train against small changes of their inputs, and so unlearn small shortcuts."""

from dataclasses import dataclass
from typing import ClassVar

from robustkit.errors import BadInput
from robustkit.threat_models import LpBall, ThreatModel
from robustkit.threat_models.perturbation import Norm
from robustkit.training import Augmentation
from robustkit.training.losses import Loss, PGDTraining
from robustkit.unlearnable.learners.base import Learner, Lesson, crop_and_flip


@dataclass(frozen=True, kw_only=True)
class AdversarialTraining(Learner):
    """Cross-entropy on what PGD makes of every batch.

    Attributes:
        norm: Of the changes.
        eps: How large they may be.
        steps: Of PGD, each 1.5 * eps / steps long.

    Raises:
        BadInput: A radius or a number of steps that means nothing.

    Reference:
        Madry, Makelov, Schmidt, Tsipras, Vladu: Towards deep learning models resistant to
        adversarial attacks. ICLR 2018. With these steps, on CUDA data: Sadasivan, Soltanolkotabi,
        Feizi: CUDA: convolution-based unlearnable datasets. CVPR 2023.

    Differs from the reference:
        PGD normalises with running statistics.
    """

    argument = "eps"
    norm: ClassVar[Norm] = "linf"

    eps: float = 8 / 255
    steps: int = 10

    def __post_init__(self) -> None:
        """Refuse what changes nothing."""
        if not 0 < self.eps < float("inf") or self.steps < 1:
            raise BadInput(
                f"Adversarial training has the radius {self.eps} and {self.steps} steps; give a "
                "radius above 0 and at least 1 step."
            )

    def augmentation(self, lesson: Lesson) -> tuple[Augmentation, ...]:
        """Crop and flip, before the attack."""
        return crop_and_flip(lesson.data)

    def loss(self) -> Loss:
        """The cross-entropy on what PGD finds."""
        ball = LpBall(norm=self.norm, radius=self.eps)
        threat = ThreatModel(name=self.norm, perturbation=ball)
        return PGDTraining(threat=threat, steps=self.steps, step_size=1.5 / self.steps)


@dataclass(frozen=True, kw_only=True)
class LinfTraining(AdversarialTraining):
    """Adversarial training where every value may change by `eps`: `AdversarialTraining`."""


@dataclass(frozen=True, kw_only=True)
class L2Training(AdversarialTraining):
    """Adversarial training where the Euclidean length may be `eps`: `AdversarialTraining`."""

    norm = "l2"

    eps: float = 0.5

"""Error-minimising noise that holds against adversarial training."""

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from robustkit.attacks.base import Learner, Poisoned, PoisoningAttack
from robustkit.data import LabelledImages
from robustkit.errors import BadInput
from robustkit.randomness import Streams
from robustkit.threat_models import ThreatModel
from robustkit.training.augmentation import Augmentation, Crop, Flip
from robustkit.training.batch import Batch
from robustkit.training.losses import PGDTraining, bare, held
from robustkit.training.losses.inner import maximise
from robustkit.unlearnable.publishing import publish, settled
from robustkit.unlearnable.share import stratified
from robustkit.unlearnable.surrogates import several, surrogate, towards, views


@dataclass(frozen=True, kw_only=True, slots=True)
class REM(PoisoningAttack):
    """Robust error-minimising noise.

    A model is trained adversarially on images under noise that is made anew for every batch: the
    noise lowers the loss that is left after an adversary of a smaller radius has raised it, over
    several random crops and flips. With the finished model each image gets the noise it is
    published with. An adversarial training of that smaller radius finds nothing left to learn.

    Published with the linf radius 8/255, on 5,000 steps of SGD, batches of 128. Give a trainer
    without augmentation of its own: this one comes behind the noise. One step costs
    `steps * draws * (adversary_steps + 1)` gradients for each image of a batch.

    Attributes:
        architecture: Of the model, as `robustkit.models.load` takes it.
        steps: Of the noise.
        step_size: Of the noise, in units of the radius; 1.6/255 of 8/255.
        adversary: The radius of the adversary inside, in units of the radius; 4/255 of 8/255.
        adversary_steps: Of the adversary.
        adversary_step_size: In units of the adversary's radius; 0.8/255 of 4/255.
        draws: Views of an image over which each step of the noise adds up.
        augmentation: Of the views.

    Raises:
        BadInput: A hyper-parameter that means nothing.

    Reference:
        Fu, He, Liu, Shen, Tao: Robust unlearnable examples: protecting data privacy against
        adversarial learning. ICLR 2022.

    Differs from the reference:
        The noise is not rounded while the model is trained, only at the end, towards the clean
        image. The adversary clips to [0, 1], and so does the noise. Learning rates are the
        trainer's.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2"})

    architecture: str = "resnet-18"
    steps: int = 10
    step_size: float = 0.2
    adversary: float = 0.5
    adversary_steps: int = 10
    adversary_step_size: float = 0.2
    draws: int = 5
    augmentation: Sequence[Augmentation] = (Crop(), Flip())

    def __post_init__(self) -> None:
        """Refuse hyper-parameters that mean nothing."""
        if min(self.steps, self.adversary_steps, self.draws) < 1:
            raise BadInput(
                f"REM takes {self.steps} steps, {self.adversary_steps} of the adversary and "
                f"{self.draws} draws; give at least 1 of each."
            )
        if not min(self.step_size, self.adversary_step_size) > 0 or not self.adversary >= 0:
            raise BadInput(
                f"REM takes steps of {self.step_size} and {self.adversary_step_size} radii and an "
                f"adversary of {self.adversary}; give sizes above 0 and an adversary of 0 or more."
            )

    def run(
        self, data: LabelledImages, threat: ThreatModel, *, trainer: Learner, streams: Streams
    ) -> Poisoned:
        """Change training data; see `PoisoningAttack.run`."""
        self.check(threat)
        mask = stratified(data.labels, threat.budget.poison_rate or 0.0, streams)
        model = surrogate(self.architecture, data, streams)
        loss = RobustErrorMinimisation(attack=self, threat=threat)
        if mask.any():
            trainer.fit(model, data.take(mask), loss)

        def change(_: Tensor, clean: Tensor, labels: Tensor, own: Streams) -> Tensor:
            return loss.covered(model, clean, labels, own)

        with held(model):
            return settled(publish(data, mask, threat.allowed, change, name="REM", streams=streams))


@dataclass(frozen=True, kw_only=True)
class RobustErrorMinimisation:
    """Adversarial training on images under noise that leaves it as little as it can.

    Attributes:
        attack: How the noise is made.
        threat: The noise's; its perturbation set counts.
    """

    attack: REM
    threat: ThreatModel

    @property
    def adversary(self) -> PGDTraining:
        """Whoever trains against it: the loss on images that carry their noise."""
        inside = ThreatModel(name="inside", perturbation=self.threat.perturbation)
        return PGDTraining(
            threat=inside.with_radius(self.threat.allowed.radius * self.attack.adversary),
            steps=self.attack.adversary_steps,
            step_size=self.attack.adversary_step_size,
        )

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean over the batch."""
        with held(bare(model)) as still:
            covered = self.covered(still, batch.inputs, batch.labels, batch.streams.fork("noise"))
        seen = views(self.attack.augmentation, covered, batch.streams.fork("seen"))
        return self.adversary(model, dataclasses.replace(batch, inputs=seen))

    def covered(self, model: nn.Module, clean: Tensor, labels: Tensor, streams: Streams) -> Tensor:
        """Like `clean`: the images under their noise, inside the set.

        Args:
            model: The bare model, held still.
            clean: (N, C, H, W).
            labels: (N,) classes, or (N, K) shares.
            streams: One per image.
        """
        attack, adversary = self.attack, self.adversary
        step = itertools.count()
        repeated = labels.repeat(attack.draws, *[1] * (labels.ndim - 1))

        def strained(inputs: Tensor) -> Tensor:
            """The logits of several views, each as the adversary changes it."""
            own = streams.fork(f"view {next(step)}")
            seen = views(attack.augmentation, inputs, own, draws=attack.draws)
            still = seen.detach()
            worst = maximise(
                model,
                still,
                lambda logits: F.cross_entropy(logits, repeated, reduction="none"),
                adversary.threat.allowed,
                steps=attack.adversary_steps,
                step_size=attack.adversary_step_size,
                start="uniform",
                streams=several(own.fork("adversary"), attack.draws),
            )
            # What the adversary adds is a constant for the noise.
            logits: Tensor = model(seen + (worst - still))
            return logits

        return maximise(
            strained,
            clean,
            towards(repeated),
            self.threat.allowed,
            steps=attack.steps,
            step_size=attack.step_size,
            start="uniform",
            streams=streams,
        )

"""What all losses with an adversary inside share."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustkit.errors import BadInput
from robustkit.threat_models import PerturbationSet, Stage, ThreatModel
from robustkit.training.batch import Batch
from robustkit.training.losses.base import BatchNormMode, bare, held
from robustkit.training.losses.inner import STARTS, Start, maximise

_NORMS = ("linf", "l2", "l1")


def adversary_of(threat: ThreatModel, what: str) -> PerturbationSet:
    """The perturbation set that a loss trains against.

    Raises:
        BadInput: The threat model is not about changed inputs in an Lp ball.
    """
    allowed = threat.perturbation
    if threat.stage is not Stage.INFERENCE or allowed is None or allowed.norm not in _NORMS:
        raise BadInput(
            f"{what} cannot train against the threat model {threat.name!r}: it needs changes of "
            f"inputs at inference, in a ball of {', '.join(_NORMS)}."
        )
    return allowed


@dataclass(frozen=True, kw_only=True)
class Adversarial(ABC):
    """A loss that first changes the inputs under a threat model, then looks at both.

    The attack acts on the bare model with frozen parameters, and its gradients are taken with
    respect to the inputs alone; afterwards every mode and flag is as it was.

    Attributes:
        threat: The adversary; its perturbation set counts, an untargeted goal and full access are
            assumed.
        steps: Of the inner attack.
        step_size: In units of the radius.
        start: Where the attack starts: `uniform` in the set, `gaussian` or `clean`.
        attack_batch_norm: `eval` attacks with the running statistics, `batch` with those of the
            batch under attack.
        ramp_epochs: The radius grows linearly over so many epochs; 0 has it full from the start.

    Raises:
        BadInput: A hyper-parameter that means nothing, or a threat that is not about inputs.
    """

    threat: ThreatModel
    steps: int = 10
    step_size: float = 0.25
    start: Start = "uniform"
    attack_batch_norm: BatchNormMode = "eval"
    ramp_epochs: int = 0

    def __post_init__(self) -> None:
        """Refuse hyper-parameters that mean nothing."""
        adversary_of(self.threat, type(self).__name__)
        if self.steps < 1 or not self.step_size > 0 or self.ramp_epochs < 0:
            raise BadInput(
                f"{type(self).__name__} takes {self.steps} steps of {self.step_size} radii and a "
                f"ramp of {self.ramp_epochs} epochs; give at least 1 step, a size above 0 and a "
                "ramp of 0 or more."
            )
        for what, value, known in (
            ("start", self.start, STARTS),
            ("attack_batch_norm", self.attack_batch_norm, get_args(BatchNormMode)),
        ):
            if value not in known:
                raise BadInput(f"The {what} {value!r} is unknown. Use one of: {', '.join(known)}.")

    def allowed(self, epoch: int) -> PerturbationSet:
        """What may be changed in this epoch."""
        if epoch + 1 >= self.ramp_epochs:
            return self.threat.allowed
        share = (epoch + 1) / self.ramp_epochs
        return self.threat.with_radius(self.threat.allowed.radius * share).allowed

    def craft(self, model: nn.Module, batch: Batch) -> Tensor:
        """The changed inputs: like `batch.inputs`, inside the set, detached.

        Args:
            model: The bare model.
            batch: The examples.
        """
        with held(model, self.attack_batch_norm):
            return maximise(
                model,
                batch.inputs,
                self.gain(model, batch),
                self.allowed(batch.epoch),
                steps=self.steps,
                step_size=self.step_size,
                start=self.start,
                streams=batch.streams,
            )

    def gain(self, model: nn.Module, batch: Batch) -> Callable[[Tensor], Tensor]:
        """What the attack raises: from logits to (N,), here the cross-entropy of the labels.

        Called while the model is held still.
        """
        return lambda logits: F.cross_entropy(logits, batch.labels, reduction="none")

    @abstractmethod
    def on(self, model: nn.Module, batch: Batch, changed: Tensor) -> Tensor:
        """The mean loss, given the changed inputs."""

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean loss; attacks first, unless somebody already has."""
        if batch.changed is None:
            batch.changed = self.craft(bare(model), batch)
        return self.on(model, batch, batch.changed)


def both_logits(
    model: nn.Module, clean: Tensor, changed: Tensor, *, joint: bool
) -> tuple[Tensor, Tensor]:
    """Logits of the clean and of the changed inputs, in float32.

    Args:
        model: In the modes of training.
        clean: (N, C, H, W).
        changed: Like `clean`.
        joint: One pass over both, so that batch norm sees one mixed batch and several processes
            communicate once; otherwise one pass each, clean first.
    """
    if not joint:
        return model(clean).float(), model(changed).float()
    both: Tensor = model(torch.cat([clean, changed])).float()
    first, second = both.chunk(2)
    return first, second

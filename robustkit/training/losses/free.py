"""Free adversarial training: one backward pass moves the inputs and the weights."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from robustkit.errors import BadInput
from robustkit.threat_models import ThreatModel
from robustkit.training.batch import Batch
from robustkit.training.losses.adversarial import adversary_of
from robustkit.training.losses.base import accuracy, logits_of
from robustkit.training.losses.inner import begin, climb


@dataclass(frozen=True, kw_only=True)
class FreeTraining:
    """Cross-entropy on inputs that move while the same batch is stepped on several times.

    An epoch costs `replays` clean ones: train for 1 / `replays` of the usual epochs.

    Attributes:
        threat: The adversary; its perturbation set counts.
        replays: Steps on each batch.
        step_size: Of the inputs' move after each, in units of the radius.

    Raises:
        BadInput: A hyper-parameter that means nothing, or a threat that is not about inputs.

    Reference:
        Shafahi, Najibi, Ghiasi, Xu, Dickerson, Studer, Davis, Taylor, Goldstein: Adversarial
        training for free! NeurIPS 2019.

    Differs from the reference:
        The change starts at a random point for each batch, where the reference goes on from the
        last batch's: a step then depends on nothing but its own examples.
    """

    threat: ThreatModel
    replays: int = 8
    step_size: float = 1.0

    def __post_init__(self) -> None:
        """Refuse hyper-parameters that mean nothing."""
        adversary_of(self.threat, type(self).__name__)
        if self.replays < 1 or not self.step_size > 0:
            raise BadInput(
                f"FreeTraining takes {self.replays} replays and steps of {self.step_size} radii; "
                "give at least 1 replay and a size above 0."
            )

    @contextlib.contextmanager
    def around(self, model: nn.Module, batch: Batch) -> Iterator[None]:
        """Have the backward pass leave the inputs' gradient, and move along it afterwards."""
        allowed = self.threat.allowed
        if batch.changed is None:
            batch.changed = begin(batch.inputs, allowed, start="uniform", streams=batch.streams)
        variable = batch.changed = batch.changed.detach().requires_grad_()
        yield
        if variable.grad is None:
            return
        length = self.step_size * allowed.radius
        batch.changed = climb(
            variable.detach(), variable.grad, batch.inputs, allowed, length=length
        )

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy on the inputs as they now stand."""
        logits = logits_of(model, batch.inputs if batch.changed is None else batch.changed)
        batch.notes["adversarial_accuracy"] = accuracy(logits, batch)
        return F.cross_entropy(logits, batch.labels)

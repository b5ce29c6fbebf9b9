"""Learning from another model's answers."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustkit.errors import BadInput
from robustkit.models.frozen import frozen
from robustkit.training.batch import Batch
from robustkit.training.losses.base import accuracy, logits_of
from robustkit.training.losses.trades import divergence


@dataclass(frozen=True, kw_only=True, eq=False)
class Distillation:
    """The divergence from a teacher's softened answers, mixed with the labels' cross-entropy.

    Attributes:
        teacher: A classifier of the same classes, on the device of training. It answers in eval
            mode, without gradients, and keeps its modes.
        temperature: Logits of both are divided by it; the divergence counts its square times.
        weight: Of the teacher, in [0, 1]; the labels have the rest.

    Raises:
        BadInput: A temperature or weight that means nothing.

    Reference:
        Hinton, Vinyals, Dean: Distilling the knowledge in a neural network. NIPS workshop 2014.
    """

    teacher: nn.Module
    temperature: float = 1.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse hyper-parameters that mean nothing."""
        if not self.temperature > 0 or not 0 <= self.weight <= 1:
            raise BadInput(
                f"Distillation takes the temperature {self.temperature} and the weight "
                f"{self.weight}; give one above 0 and one in [0, 1]."
            )

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mixture over the batch."""
        with frozen(self.teacher), torch.no_grad():
            wanted = logits_of(self.teacher, batch.inputs) / self.temperature
        logits = logits_of(model, batch.inputs)
        batch.notes["accuracy"] = accuracy(logits, batch)
        agrees = logits.detach().argmax(1) == wanted.argmax(1)
        batch.notes["agreement"] = agrees.float().mean()
        softened = (logits / self.temperature).log_softmax(1)
        apart = divergence(wanted.log_softmax(1), softened).mean() * self.temperature**2
        if self.weight == 1:
            return apart
        fit = F.cross_entropy(logits, batch.labels)
        return self.weight * apart + (1 - self.weight) * fit

"""Cross-entropy with a price on doubt."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from robustkit.errors import BadInput
from robustkit.training.batch import Batch
from robustkit.training.losses.base import accuracy, logits_of


@dataclass(frozen=True, kw_only=True, slots=True)
class EntropyPenalty:
    """Cross-entropy plus `weight` times the entropy of the model's answers.

    It makes logits large, and with them the gradients of the cross-entropy small: what it gains
    against attacks on the cross-entropy must be checked with losses that do not saturate (margin,
    DLR), as the standard plan of an evaluation does.

    Attributes:
        weight: Of the entropy, in nats.

    Raises:
        BadInput: A negative weight.

    Reference:
        Cubuk, Zoph, Schoenholz, Le: Intriguing properties of adversarial examples. ICLR workshop
        2018.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a weight that means nothing."""
        if not self.weight >= 0:
            raise BadInput(f"EntropyPenalty takes the weight {self.weight}; it must be 0 or more.")

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean over the batch."""
        logits = logits_of(model, batch.inputs)
        batch.notes["accuracy"] = accuracy(logits, batch)
        logs = logits.log_softmax(1)
        entropy = -(logs.exp() * logs).sum(1).mean()
        batch.notes["entropy"] = entropy.detach()
        return F.cross_entropy(logits, batch.labels) + self.weight * entropy

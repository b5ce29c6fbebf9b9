"""TRADES: accuracy on clean inputs, and the same answer around them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustkit.errors import BadInput
from robustkit.training.batch import Batch
from robustkit.training.losses.adversarial import Adversarial, both_logits
from robustkit.training.losses.base import accuracy
from robustkit.training.losses.inner import Start
from robustkit.training.losses.standard import check_share


@dataclass(frozen=True, kw_only=True)
class TRADES(Adversarial):
    """Cross-entropy on clean inputs plus beta times the divergence that an attack can cause.

    With p the answer to the clean and q to the changed input: CE(p, y) + beta * KL(p || q); the
    attack raises the same divergence.

    Attributes:
        beta: Weight of the divergence.
        label_smoothing: Of the cross-entropy.
        joint: Pass clean and changed inputs through the model together, as one batch.

    Reference:
        Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan: Theoretically principled trade-off between
        robustness and accuracy. ICML 2019.

    Differs from the reference:
        Batch norm sees one batch of both halves; `joint=False` gives the reference's two.
    """

    step_size: float = 0.226
    start: Start = "gaussian"
    beta: float = 6.0
    label_smoothing: float = 0.0
    joint: bool = True

    def __post_init__(self) -> None:
        """Refuse hyper-parameters that mean nothing."""
        super().__post_init__()
        check_share("label smoothing", self.label_smoothing)
        if not self.beta >= 0:
            raise BadInput(f"TRADES takes beta {self.beta}; it must be 0 or larger.")

    def gain(self, model: nn.Module, batch: Batch) -> Callable[[Tensor], Tensor]:
        """The divergence from the answer to the clean inputs."""
        with torch.no_grad():
            clean = model(batch.inputs).float().log_softmax(1)
        return lambda logits: divergence(clean, logits.log_softmax(1))

    def on(self, model: nn.Module, batch: Batch, changed: Tensor) -> Tensor:
        """Cross-entropy on the clean inputs plus beta times the divergence."""
        clean, other = both_logits(model, batch.inputs, changed, joint=self.joint)
        batch.notes["accuracy"] = accuracy(clean, batch)
        batch.notes["adversarial_accuracy"] = accuracy(other, batch)
        apart = divergence(clean.log_softmax(1), other.log_softmax(1)).mean()
        fit = F.cross_entropy(clean, batch.labels, label_smoothing=self.label_smoothing)
        return fit + self.beta * apart


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """(N,) Kullback-Leibler divergence KL(first || second) of (N, K) log-probabilities."""
    return F.kl_div(second, first, reduction="none", log_target=True).sum(1)

"""MART: misclassified examples weigh more."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustkit.errors import BadInput
from robustkit.training.batch import Batch
from robustkit.training.losses.adversarial import Adversarial, both_logits
from robustkit.training.losses.base import accuracy
from robustkit.training.losses.inner import Start
from robustkit.training.losses.trades import divergence

# Keeps the logarithm of a rest that has been rounded to nothing finite.
_TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class MART(Adversarial):
    """Boosted cross-entropy on changed inputs plus a divergence weighted by the chance of error.

    With p the answer to the clean and q to the changed input, y the right class:
    CE(q, y) - log(1 - max over k != y of q_k) + beta * (1 - p_y) * KL(p || q).

    Attributes:
        beta: Weight of the divergence.
        joint: Pass clean and changed inputs through the model together, as one batch.

    Reference:
        Wang, Zou, Yi, Bailey, Ma, Gu: Improving adversarial robustness requires revisiting
        misclassified examples. ICLR 2020.

    Differs from the reference:
        Batch norm sees one batch of both halves; `joint=False` gives the reference's two. Labels
        that are shares of classes count as the largest share.
    """

    start: Start = "gaussian"
    beta: float = 6.0
    joint: bool = True

    def __post_init__(self) -> None:
        """Refuse hyper-parameters that mean nothing."""
        super().__post_init__()
        if not self.beta >= 0:
            raise BadInput(f"MART takes beta {self.beta}; it must be 0 or larger.")

    def on(self, model: nn.Module, batch: Batch, changed: Tensor) -> Tensor:
        """The loss of the docstring's formula."""
        clean, other = both_logits(model, batch.inputs, changed, joint=self.joint)
        batch.notes["accuracy"] = accuracy(clean, batch)
        batch.notes["adversarial_accuracy"] = accuracy(other, batch)
        right = batch.classes[:, None]
        chances = other.softmax(1)
        best_wrong = chances.scatter(1, right, 0.0).amax(1)
        boosted = F.cross_entropy(other, batch.classes) - torch.log1p(_TINY - best_wrong).mean()
        doubt = 1 - clean.softmax(1).gather(1, right)[:, 0]
        apart = divergence(clean.log_softmax(1), other.log_softmax(1))
        return boosted + self.beta * (doubt * apart).mean()

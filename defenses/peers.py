"""Plain rules for ensembles: what CrossMax is compared with, and what its attackers look at."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from robustkit.defenses.ensembles import Aggregation


@dataclass(frozen=True, kw_only=True)
class MeanLogits(Aggregation):
    """The mean of the members' logits. It hides nothing, and it is the control of CrossMax.

    With one member it is that member.

    Attributes:
        temperatures: What each member's logits are divided by; none divides nothing.

    Example:
        >>> import torch
        >>> MeanLogits()(torch.tensor([[[1.0, 0.0], [0.0, 5.0]]]))
        tensor([[0.5000, 2.5000]])
    """

    def combine(self, logits: Tensor) -> Tensor:
        """The mean over the members."""
        return logits.mean(1)


@dataclass(frozen=True, kw_only=True)
class MedianLogits(Aggregation):
    """The median of the members' logits, class by class; the lower one of an even number.

    Attributes:
        temperatures: What each member's logits are divided by; none divides nothing.

    Example:
        >>> import torch
        >>> MedianLogits()(torch.tensor([[[1.0, 0.0], [0.0, 5.0], [2.0, 1.0]]]))
        tensor([[1., 1.]])
    """

    def combine(self, logits: Tensor) -> Tensor:
        """The median over the members."""
        return logits.median(1).values

    def stand_ins(self) -> Mapping[str, Aggregation]:
        """The mean: the gradient of a median passes through one member per class."""
        return {"mean": MeanLogits(temperatures=self.temperatures)}


@dataclass(frozen=True, kw_only=True)
class Vote(Aggregation):
    """The number of members that name each class.

    Of classes with as many votes, the one with the larger mean softmax wins. Votes have no
    gradient; what there is belongs to that softmax.

    Attributes:
        temperatures: What each member's logits are divided by; none divides nothing.

    Example:
        >>> import torch
        >>> Vote()(torch.tensor([[[1.0, 0.0], [0.0, 5.0], [2.0, 1.0]]])).argmax(1)
        tensor([0])
    """

    def combine(self, logits: Tensor) -> Tensor:
        """Votes, and half of the mean softmax, which can decide nothing else."""
        votes = F.one_hot(logits.argmax(2), logits.shape[2]).to(logits.dtype).sum(1)
        # Of logits that are no numbers, the softmax is none either.
        return votes + logits.softmax(2).mean(1) / 2

    def stand_ins(self) -> Mapping[str, Aggregation]:
        """The mean and the median, which carry gradients."""
        return {
            "mean": MeanLogits(temperatures=self.temperatures),
            "median": MedianLogits(temperatures=self.temperatures),
        }


@dataclass(frozen=True, kw_only=True)
class Only(Aggregation):
    """One member, whatever the others say.

    Attributes:
        member: Which one, from 0.
        temperatures: What each member's logits are divided by; none divides nothing.
    """

    member: int = 0

    def combine(self, logits: Tensor) -> Tensor:
        """That member's logits."""
        return logits[:, self.member]

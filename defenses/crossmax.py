"""CrossMax: an ensemble that answers by agreement, and whose own gradients mislead."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustkit.defenses.ensembles import Aggregation, Ensemble
from robustkit.defenses.peers import MeanLogits, MedianLogits
from robustkit.errors import BadInput, ShapeMismatch


def crossmax(
    logits: Tensor,
    *,
    rank: int | None = None,
    break_ties: bool = True,
    temperatures: Sequence[float] | None = None,
) -> Tensor:
    """One answer of several classifiers' raw logits.

    From each classifier's logits its largest one is taken away, then from each class the largest
    value over all classifiers; what is left is zero or less, and the median over the classifiers,
    or the value of a given rank, is the answer.

    What follows from that, for M classifiers:

    - A constant added to one classifier's logits changes nothing; a factor does.
    - A class that `rank` classifiers name has the answer 0, the largest there is, and no gradient.
      With M >= 2 rank, several classes can have it: exact ties.
    - Rank 1 would be 0 everywhere. Of identical classifiers everything is a tie.
    - The answer to an image is NaN for all classes if any logit is.

    Args:
        logits: (N, M, K) of M >= 2 classifiers.
        rank: The value that is taken of each class, from the largest, which is 1: from 2 to M. None
            takes the median, of an even number the lower one: rank M // 2 + 1.
        break_ties: Let the mean of what the first step gives decide between classes that share the
            largest answer: the others of them get the next smaller number. No gradient is changed.
            Without it, whoever takes the largest finds the first such class.
        temperatures: M numbers above 0 that divide each classifier's logits; None divides nothing.

    Returns:
        (N, K), at most 0.

    Raises:
        BadInput: One classifier, or a rank that is not from 2 to M.
        ShapeMismatch: Another number of dimensions, or of temperatures.

    Example:
        >>> votes = torch.tensor([[[3.0, 1.0, 0.0], [7.0, 6.0, 0.0], [0.0, 2.0, 1.0]]])
        >>> crossmax(votes)
        tensor([[ 0., -1., -2.]])
    """
    if logits.ndim != 3:
        raise ShapeMismatch(
            f"The logits have shape {tuple(logits.shape)}; give (examples, classifiers, classes)."
        )
    count = logits.shape[1]
    _check(count, rank)
    if temperatures is not None:
        if len(temperatures) != count:
            raise ShapeMismatch(f"{len(temperatures)} temperatures came for {count} classifiers.")
        logits = logits / logits.new_tensor(temperatures)[:, None]
    # `max` and not `amax`, whose gradient would be shared between equal entries.
    apart = logits - logits.max(2, keepdim=True).values
    across = apart - apart.max(1, keepdim=True).values
    if rank is None:
        answers = across.median(1).values
    else:
        answers = across.kthvalue(count - rank + 1, dim=1).values
    return _decided(answers, apart) if break_ties else answers


@torch.no_grad()
def _lowered(answers: Tensor, support: Tensor) -> Tensor:
    """(N, K) what to add, so that of classes which share the largest answer one has it."""
    largest = answers.max(1, keepdim=True).values
    tied = answers == largest
    winner = support.masked_fill(~tied, -torch.inf).argmax(1, keepdim=True)
    losers = tied.scatter(1, winner, value=False)
    # Below zero, the next number is no normal one, and some devices take it for zero.
    least = torch.finfo(answers.dtype).tiny
    below = torch.minimum(largest.nextafter(largest - 1), largest - least)
    return torch.where(losers, below - answers, 0.0)


def _decided(answers: Tensor, apart: Tensor) -> Tensor:
    """The answers without a tie for the largest one, unless the means are equal too."""
    return answers + _lowered(answers.detach(), apart.detach().mean(1))


def _check(count: int, rank: int | None) -> None:
    if count < 2:
        raise BadInput(
            f"CrossMax of {count} classifier would be 0 for every class: it measures agreement. "
            "Give at least 2."
        )
    if rank is not None and not 2 <= rank <= count:
        raise BadInput(
            f"CrossMax's rank is {rank} for {count} classifiers; give 2 to {count} (rank 1 is 0 "
            "for every class), or none for the median."
        )


@dataclass(frozen=True, kw_only=True)
class CrossMax(Aggregation):
    """An ensemble that answers by agreement: the function `crossmax` of its members' logits.

    What attacks on it alone report is an artefact: where enough members name one class, its answer
    is pinned at zero and has no gradient, while the cross-entropy's gradient stays large, so that
    no simple check objects. The mean of the members' logits shows an adversary the way. The
    ensemble names that mean, the median and each member as stand-ins, and an evaluation attacks
    them all; the number to quote is the worst case, which stands beside that of the plain mean in
    the benchmark `crossmax`.

    Attributes:
        temperatures: What each member's logits are divided by; none divides nothing.
        rank: Which value of each class is taken, from the largest: 2 to the number of members.
            None takes the (lower) median.
        break_ties: Decide exact ties by the mean of the members' normalised logits; otherwise the
            first class wins, as in the authors' code.

    Raises:
        BadInput: A rank below 2; with fewer than two members, or fewer than the rank.

    Reference:
        Fort, Lakshminarayanan: Ensemble everything everywhere: multi-scale aggregation for
        adversarial robustness. 2024. Broken by Zhang, Nikolic, Carlini, Tramer: Gradient masking
        all-at-once: ensemble everything everywhere is not robust. 2024.

    Differs from the reference:
        Ties are broken unless asked otherwise, and members may have temperatures.

    Reproduces:
        The break at a small scale: see the benchmark `crossmax`. The published figures, which need
        a GPU: under adaptive attacks, accuracy on CIFAR-10 fell from 62 to 11 % and on CIFAR-100
        from 48 to 14 %.

    Example:
        >>> members = [nn.Sequential(nn.Flatten(), nn.Linear(4, 3)) for _ in range(3)]
        >>> ensemble = CrossMaxEnsemble(members)
        >>> list(ensemble.surrogates())
        ['mean', 'median', 'member-1', 'member-2', 'member-3']
    """

    least: ClassVar[int] = 2

    rank: int | None = None
    break_ties: bool = True

    def __post_init__(self) -> None:
        """Refuse hyper-parameters that mean nothing."""
        super().__post_init__()
        _check(max(2, self.rank or 2), self.rank)

    def combine(self, logits: Tensor) -> Tensor:
        """See `crossmax`."""
        return crossmax(logits, rank=self.rank, break_ties=self.break_ties)

    def check_members(self, count: int) -> None:
        """Refuse one member, or fewer than the rank."""
        _check(count, self.rank)
        super().check_members(count)

    def stand_ins(self) -> Mapping[str, Aggregation]:
        """The mean and the median without any normalisation."""
        return {
            "mean": MeanLogits(temperatures=self.temperatures),
            "median": MedianLogits(temperatures=self.temperatures),
        }


class CrossMaxEnsemble(Ensemble):
    """Classifiers under CrossMax; see there.

    Identical members are not refused here: they agree on everything, all their answers are ties,
    and the rule for ties makes the ensemble answer as any of them does.
    """

    def __init__(
        self,
        members: Sequence[nn.Module],
        *,
        rank: int | None = None,
        break_ties: bool = True,
        temperatures: Sequence[float] = (),
    ) -> None:
        """Put members together; they are shared, not copied.

        Args:
            members: At least two classifiers of the same images and classes.
            rank: See `crossmax`.
            break_ties: See `crossmax`.
            temperatures: See `crossmax`; none divides nothing.

        Raises:
            BadInput: See `CrossMax` and `Ensemble`.
        """
        rule = CrossMax(rank=rank, break_ties=break_ties, temperatures=tuple(temperatures))
        super().__init__(members, rule)

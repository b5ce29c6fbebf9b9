"""Learning-rate schedules: pure functions of how far a run is and of what it has reached.

None has a state of its own, so that a resumed run needs nothing but its history.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from robustkit.errors import BadInput


class Schedule(Protocol):
    """By what the optimiser's learning rate is multiplied.

    Attributes:
        follows_score: Whether it needs held-out scores.
    """

    @property
    def follows_score(self) -> bool:
        """Whether it needs held-out scores."""
        ...

    def factor(self, epoch: float, epochs: int, scores: Sequence[float]) -> float:
        """The factor.

        Args:
            epoch: Epochs done, with their fraction; below `epochs`.
            epochs: Of the whole run.
            scores: Held-out scores so far, in [0, 1], larger is better; one per scored epoch.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant:
    """The same rate throughout."""

    follows_score: ClassVar[bool] = False

    def factor(self, epoch: float, epochs: int, scores: Sequence[float]) -> float:
        """1."""
        return 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """The rate is cut at given epochs.

    Attributes:
        milestones: Epochs done when it is cut.
        cut: What it is multiplied by, in (0, 1].
    """

    follows_score: ClassVar[bool] = False
    milestones: tuple[int, ...]
    cut: float = 0.1

    def __post_init__(self) -> None:
        """Refuse a cut that is none."""
        if not 0 < self.cut <= 1:
            raise BadInput(f"The schedule's cut is {self.cut}; it must lie in (0, 1].")

    def factor(self, epoch: float, epochs: int, scores: Sequence[float]) -> float:
        """One cut for every milestone passed."""
        factor: float = self.cut ** sum(epoch >= milestone for milestone in self.milestones)
        return factor


@dataclass(frozen=True, kw_only=True, slots=True)
class Cosine:
    """Half a cosine from 1 to 0.

    Attributes:
        warmup: Epochs of linear growth before it.
    """

    follows_score: ClassVar[bool] = False
    warmup: int = 0

    def __post_init__(self) -> None:
        """Refuse less than no warm-up."""
        if self.warmup < 0:
            raise BadInput(f"The schedule's warmup is {self.warmup} epochs; give 0 or more.")

    def factor(self, epoch: float, epochs: int, scores: Sequence[float]) -> float:
        """The cosine."""
        if epoch < self.warmup:
            return (epoch + 1) / (self.warmup + 1)
        return _cosine(1.0, 0.0, (epoch - self.warmup) / max(epochs - self.warmup, 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class OneCycle:
    """Up from a low rate to the full one, and down to nearly nothing.

    Attributes:
        peak: Share of the run after which the rate is full, in (0, 1).
        start: Factor at the beginning.
        end: Factor at the end.
        linear: Straight lines instead of half cosines.

    Reference:
        Smith, Topin: Super-convergence: very fast training of neural networks using large learning
        rates. 2019.
    """

    follows_score: ClassVar[bool] = False
    peak: float = 0.3
    start: float = 0.04
    end: float = 4e-6
    linear: bool = False

    def __post_init__(self) -> None:
        """Refuse a peak outside the run."""
        if not 0 < self.peak < 1:
            raise BadInput(f"The schedule's peak is {self.peak}; it must lie in (0, 1).")

    def factor(self, epoch: float, epochs: int, scores: Sequence[float]) -> float:
        """Before the peak on the way up, behind it on the way down."""
        done = epoch / epochs
        between = _line if self.linear else _cosine
        if done < self.peak:
            return between(self.start, 1.0, done / self.peak)
        return between(1.0, self.end, (done - self.peak) / (1 - self.peak))


@dataclass(frozen=True, kw_only=True, slots=True)
class Plateau:
    """The rate is cut when the best held-out score is some epochs old.

    Attributes:
        patience: Scores without a new best before a cut.
        threshold: How much better a new best must be.
        cut: What the rate is multiplied by.
    """

    follows_score: ClassVar[bool] = True
    patience: int = 5
    threshold: float = 0.001
    cut: float = 0.1

    def factor(self, epoch: float, epochs: int, scores: Sequence[float]) -> float:
        """One cut for every time the patience ran out."""
        best, waited, cuts = -math.inf, 0, 0
        for score in scores:
            waited += 1
            if score > best + self.threshold:
                best, waited = score, 0
            elif waited > self.patience:
                waited, cuts = 0, cuts + 1
        factor: float = self.cut**cuts
        return factor


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracyGradient:
    """The rate is cut when the held-out score has gained little over the last epochs.

    With the mean of the last `window` scores: where it grew by less than `slope` since the epoch
    before (that is, the score by less than `window * slope` in `window` epochs) and the last cut is
    `quiet` epochs old, the rate is cut.

    Attributes:
        window: Scores in the mean.
        quiet: Epochs between two cuts.
        slope: Of the mean, per epoch.
        cut: What the rate is multiplied by.
        lowest: Smallest factor.

    Reference:
        Nikfam, Marchisio, Martina, Shafique: AccelAT: a framework for accelerating the adversarial
        training of deep neural networks through accuracy gradient. IEEE Access 2022.

    Differs from the reference:
        It follows the *robust* accuracy on held-out training images instead of the accuracy on the
        test set under examples made once; early windows hold the scores there are. The floor is a
        share of the rate (the reference: 1e-6 of 1e-3).
    """

    follows_score: ClassVar[bool] = True
    window: int = 5
    quiet: int = 5
    slope: float = 0.005
    cut: float = 0.8
    lowest: float = 1e-3

    def __post_init__(self) -> None:
        """Refuse windows that hold nothing."""
        if self.window < 1 or self.quiet < 0 or not 0 < self.cut <= 1:
            raise BadInput(
                f"AccuracyGradient takes a window of {self.window}, {self.quiet} quiet epochs and "
                f"the cut {self.cut}; give at least 1, at least 0, and a cut in (0, 1]."
            )

    def factor(self, epoch: float, epochs: int, scores: Sequence[float]) -> float:
        """One cut for every time the slope was too small."""
        means: list[float] = []
        factor, since = 1.0, self.quiet
        for number in range(1, len(scores) + 1):
            recent = scores[max(0, number - self.window) : number]
            mean = sum(recent) / len(recent)
            since += 1
            if len(means) > self.window and since > self.quiet and mean - means[-1] < self.slope:
                factor, since = factor * self.cut, 1
            means.append(mean)
        return max(factor, self.lowest)


def _line(start: float, end: float, share: float) -> float:
    return start + (end - start) * share


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2

"""From trainings to the figures of a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from robustkit.report.parts import Cost
from robustkit.report.unlearnable import BestLearner, LearnerRow, PartialRow
from robustkit.statistics import Interval, paired_difference, paired_ratio
from robustkit.training.describing import describe
from robustkit.unlearnable.audit import (
    CLEAN,
    ON_CLEAN,
    PERMUTED_KEY,
    PLAIN,
    PUBLISHED,
    SAME_KEY,
    Findings,
    alone_words,
    mixed_words,
)
from robustkit.unlearnable.choosing import Choice, accuracy, choose, mean
from robustkit.unlearnable.learners.base import Learner
from robustkit.unlearnable.outcomes import Bits, Outcome


@dataclass(frozen=True, slots=True)
class Summary:
    """What the trainings of an audit add up to.

    Attributes:
        choice: The best learner.
        best: The same for the report.
        learners: One row per learner.
        partial: One row per share of published images.
        cost: Of all trainings.
    """

    choice: Choice
    best: BestLearner
    learners: tuple[LearnerRow, ...]
    partial: tuple[PartialRow, ...]
    cost: Cost


def summary(findings: Findings, learners: Mapping[str, Learner], classes: int) -> Summary:
    """Add up a finished audit.

    Args:
        findings: Of the audit.
        learners: Those that were tried, by name.
        classes: Of the data; one in so many answers is right by chance.
    """
    rows = tuple(_row(name, learner, findings, classes) for name, learner in learners.items())
    on_published = {name: findings.outcomes[name, PUBLISHED] for name in learners}
    choosing = findings.choosing
    choice = choose(
        {name: [one.best for one in outcomes] for name, outcomes in on_published.items()}, choosing
    )
    scoring = ~choosing
    found = [one.best[scoring] for one in on_published[choice.name]]
    reference = [one.best[scoring] for one in findings.outcomes[choice.name, CLEAN]]
    best = BestLearner(
        learner=choice.name,
        chosen=choice.chosen,
        n=int(choosing.sum()),
        reference=accuracy(mean(reference)),
        lost=difference(reference, found),
    )
    outcomes = [one for several in findings.outcomes.values() for one in several]
    cost = Cost(
        forward=sum(one.passes.forward for one in outcomes),
        backward=sum(one.passes.backward for one in outcomes),
        rows_run=sum(one.passes.rows_run for one in outcomes),
        seconds=sum(one.seconds for one in outcomes),
    )
    partial = tuple(_partial(share, findings) for share in findings.shares)
    return Summary(choice, best, rows, partial, cost)


def _row(name: str, learner: Learner, findings: Findings, classes: int) -> LearnerRow:
    published, clean = findings.outcomes[name, PUBLISHED], findings.outcomes[name, CLEAN]
    last, reference = (_of(outcomes, ON_CLEAN) for outcomes in (published, clean))
    return LearnerRow(
        name=name,
        options={key: value for key, value in describe(learner).items() if key != "type"},
        last=accuracy(mean(last)),
        best=accuracy(mean([one.best[~findings.choosing] for one in published])),
        best_epochs=tuple(one.best_epoch for one in published),
        reference=accuracy(mean(reference)),
        difference=difference(last, reference),
        recovered=paired_ratio(mean(last) - 1 / classes, mean(reference) - 1 / classes),
        same_key=_keyed(published, SAME_KEY),
        permuted_key=_keyed(published, PERMUTED_KEY),
        seeds=tuple(float(bits.mean()) for bits in last),
        forward=sum(one.passes.forward for one in published),
        backward=sum(one.passes.backward for one in published),
        seconds=sum(one.seconds for one in published),
        cpu_seconds=sum(one.cpu_seconds for one in published),
    )


def _partial(share: float, findings: Findings) -> PartialRow:
    rest = findings.outcomes.get((PLAIN, alone_words(share)))
    on = PUBLISHED if rest is None else mixed_words(share)
    mixed = _of(findings.outcomes[PLAIN, on], ON_CLEAN)
    alone = None if rest is None else _of(rest, ON_CLEAN)
    return PartialRow(
        published=share,
        mixed=accuracy(mean(mixed)),
        alone=None if alone is None else accuracy(mean(alone)),
        difference=None if alone is None else difference(mixed, alone),
    )


def difference(first: Sequence[Bits], second: Sequence[Bits]) -> Interval:
    """How much larger the first share is, over all pairs of an image and a seed."""
    return paired_difference(np.concatenate(first), np.concatenate(second))


def _of(outcomes: Sequence[Outcome], test: str) -> list[Bits]:
    return [one.right[test] for one in outcomes]


def _keyed(outcomes: Sequence[Outcome], test: str) -> Interval | None:
    if not all(test in one.right for one in outcomes):
        return None
    return accuracy(mean(_of(outcomes, test)))

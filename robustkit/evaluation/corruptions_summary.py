"""From the answers under corruption to accuracies, errors and their intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustkit.corruptions import FAMILIES, NAMES, SEVERITIES
from robustkit.data import LabelledImages
from robustkit.evaluation.corruptions_survey import CLEAN, CONTROL, REFERENCE
from robustkit.evaluation.records import Group, Records
from robustkit.report import CorruptedExample, CorruptionRow, Cost, MeanCorruptionError, ModelFacts
from robustkit.statistics import Interval, wilson

_CELLS = len(NAMES) * len(SEVERITIES)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the records of a run add up to.

    Attributes:
        clean: Accuracy without corruption.
        mean: Mean accuracy over all cells of the grid.
        control: Accuracy at severity 0.
        disagreements: Examples that are answered otherwise at severity 0 than clean.
        grid: One row per corruption.
        mce: Errors as a share of the reference's, if there is one.
        examples: One row per example, in the data's order.
        cost: Clean pass and grid.
        other: What control and reference took besides.
    """

    clean: Interval
    mean: Interval
    control: Interval
    disagreements: int
    grid: tuple[CorruptionRow, ...]
    mce: MeanCorruptionError | None
    examples: tuple[CorruptedExample, ...]
    cost: Cost
    other: Cost


def outcome(data: LabelledImages, records: Records, reference: ModelFacts | None) -> Outcome:
    """Add up a finished run."""
    n = len(data)
    clean, control = answers(records, CLEAN, n), answers(records, CONTROL, n)
    right = _right(data, records, 0)
    errors = None if reference is None else ~_right(data, records, REFERENCE)
    grid = _grid(right, errors)
    return Outcome(
        clean=wilson(int((clean == data.labels).sum()), n),
        mean=mean_interval(right.sum(0)),
        control=wilson(int((control == data.labels).sum()), n),
        disagreements=int((clean != control).sum()),
        grid=grid,
        mce=None if reference is None or errors is None else _mce(grid, errors, reference),
        examples=tuple(
            CorruptedExample(id=id_, label=label, clean_label=answer, correct=correct)
            for id_, label, answer, correct in zip(
                data.ids.tolist(),
                data.labels.tolist(),
                clean.tolist(),
                right.sum(0).tolist(),
                strict=True,
            )
        ),
        cost=_cost([group for group in records.groups if group.stage < CONTROL]),
        other=_cost([group for group in records.groups if group.stage >= CONTROL]),
    )


def answers(records: Records, stage: int, n: int) -> Tensor:
    """(n,) int64: what was answered in one stage."""
    labels = torch.full((n,), -1)
    asked = torch.zeros(n, dtype=torch.bool)
    for group in records.stage(stage):
        labels[group.rows] = torch.tensor(group.labels)
        asked[group.rows] = True
    if not bool(asked.all()):
        # An example that was never asked about must not count as anything.
        raise RuntimeError(f"Stage {stage} has answers for {int(asked.sum())} of {n} examples.")
    return labels


def mean_interval(correct: Tensor) -> Interval:
    """The mean accuracy over all conditions, with an interval over the images.

    An image's 75 answers depend on each other, so that they do not count as 75 examples: each image
    counts as one, with the share of its answers that are right. The variance of shares is at most
    that of successes with the same mean, so that Wilson's interval for so many successes among so
    many images is wide enough. Successes are rounded outwards to whole ones.

    Args:
        correct: (N,) in how many conditions each image is right.
    """
    n, successes = len(correct), int(correct.sum()) / _CELLS
    low, high = wilson(math.floor(successes), n).low, wilson(math.ceil(successes), n).high
    return Interval(successes / n, low, high)


def _right(data: LabelledImages, records: Records, first: int) -> Tensor:
    """(75, N) bool: which answers are right."""
    rows = [answers(records, first + place, len(data)) == data.labels for place in range(_CELLS)]
    return torch.stack(rows)


def _grid(right: Tensor, errors: Tensor | None) -> tuple[CorruptionRow, ...]:
    families = {name: family for family, names in FAMILIES.items() for name in names}
    n = right.shape[1]
    rows = []
    for place, name in enumerate(NAMES):
        cells = slice(place * len(SEVERITIES), (place + 1) * len(SEVERITIES))
        correct = right[cells].sum(1).tolist()
        rows.append(
            CorruptionRow(
                name=name,
                family=families[name],  # type: ignore[arg-type]
                severities=tuple(wilson(count, n) for count in correct),
                mean=sum(correct) / (len(SEVERITIES) * n),
                corruption_error=None if errors is None else _error(right[cells], errors[cells]),
            )
        )
    return tuple(rows)


def _error(right: Tensor, errors: Tensor) -> float | None:
    """The errors under one corruption as a share of the reference's."""
    theirs = int(errors.sum())
    return int((~right).sum()) / theirs if theirs else None


def _mce(
    grid: Sequence[CorruptionRow], errors: Tensor, reference: ModelFacts
) -> MeanCorruptionError:
    shares = [row.corruption_error for row in grid]
    known = [share for share in shares if share is not None]
    return MeanCorruptionError(
        value=sum(known) / len(known) if len(known) == len(shares) else None,
        reference=reference,
        reference_accuracy=1 - int(errors.sum()) / errors.numel(),
    )


def _cost(groups: Sequence[Group]) -> Cost:
    return Cost(
        forward=sum(group.forward for group in groups),
        backward=0,
        rows_run=sum(group.rows_run for group in groups),
        seconds=sum(group.seconds for group in groups),
    )

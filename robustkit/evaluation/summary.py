"""From the records of a run to its report."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustkit.attacks import EvasionAttack, describe
from robustkit.data import LabelledImages
from robustkit.evaluation.records import Group, Records
from robustkit.report import AttackRow, Cost, ExampleRow, Flag
from robustkit.report.evasion import Status
from robustkit.statistics import Interval, wilson
from robustkit.threat_models import Access, Goal, Untargeted


@dataclass(frozen=True, slots=True)
class Tally:
    """What the records of a run add up to.

    Attributes:
        examples: One row per example, in the data's order.
        attacks: One row per attack that ran.
        cost: Clean pass, search and judging together.
        clean: Clean accuracy.
        robust: Accuracy under the worst attack for each example.
        violations: Examples for which an attack returned something that is not allowed.
    """

    examples: tuple[ExampleRow, ...]
    attacks: tuple[AttackRow, ...]
    cost: Cost
    clean: Interval
    robust: Interval
    violations: int


class Standing:
    """Which examples still stand, example by example, as groups of records come in."""

    def __init__(self, data: LabelledImages, records: Records) -> None:
        """Args: the examples, and the records of a run of which the clean pass is complete."""
        self.clean_label = torch.full((len(data),), -1)
        self.broken_by = torch.full((len(data),), -1)
        self.outcomes: list[dict[int, str]] = []
        self.labels = data.labels
        self.distance = torch.full((len(data),), torch.inf, dtype=torch.float64)
        for group in records.stage(-1):
            self.clean_label[group.rows] = torch.tensor(group.labels)

    def take(self, stage: int, groups: Sequence[Group]) -> None:
        """Take in what one attack did."""
        outcomes: dict[int, str] = {}
        for group in groups:
            outcome = group.outcome or []
            outcomes.update(zip(group.rows, outcome, strict=True))
            found = torch.tensor([torch.inf if d is None else d for d in group.distance or []])
            self.distance[group.rows] = self.distance[group.rows].minimum(found.double())
            fallen = [
                row for row, word in zip(group.rows, outcome, strict=True) if word == "broken"
            ]
            self.broken_by[fallen] = stage
        self.outcomes.append(outcomes)

    @property
    def rows(self) -> Tensor:
        """(M,) positions of the examples that no attack has broken and that were right at first."""
        return ((self.clean_label == self.labels) & (self.broken_by < 0)).nonzero()[:, 0]

    def status(self, row: int) -> Status:
        """`misclassified`, `broken`, `violation`, `not_started` or `robust`."""
        if int(self.clean_label[row]) != int(self.labels[row]):
            return "misclassified"
        if int(self.broken_by[row]) >= 0:
            return "broken"
        tried = [outcomes[row] for outcomes in self.outcomes if row in outcomes]
        if "violation" in tried:
            return "violation"
        return "not_started" if tried and set(tried) == {"not_started"} else "robust"


def tally(
    data: LabelledImages,
    records: Records,
    plan: Sequence[tuple[str, EvasionAttack[Any]]],
) -> Tally:
    """Add up a finished run."""
    standing = Standing(data, records)
    rows = []
    queries: list[int | None] = [0] * len(data)
    for stage, (name, attack) in enumerate(plan):
        groups = records.stage(stage)
        standing.take(stage, groups)
        rows.append(_attack_row(name, attack, groups))
        _add_queries(queries, groups)
    statuses: list[Status] = [standing.status(row) for row in range(len(data))]
    examples = tuple(
        ExampleRow(
            id=int(data.ids[row]),
            label=int(data.labels[row]),
            clean_label=int(standing.clean_label[row]),
            status=statuses[row],
            attack=plan[by][0] if (by := int(standing.broken_by[row])) >= 0 else None,
            distance=_finite(float(standing.distance[row])),
            queries=queries[row],
        )
        for row in range(len(data))
    )
    wrong = statuses.count("misclassified")
    return Tally(
        examples=examples,
        attacks=tuple(rows),
        cost=_cost(records),
        clean=wilson(len(data) - wrong, len(data)),
        robust=wilson(len(data) - wrong - statuses.count("broken"), len(data)),
        violations=sum(row.violations for row in rows),
    )


def _attack_row(name: str, attack: EvasionAttack[Any], groups: Sequence[Group]) -> AttackRow:
    outcomes = [outcome for group in groups for outcome in group.outcome or []]
    return AttackRow(
        name=name,
        options=describe(attack),
        through="direct",
        examples_in=len(outcomes),
        broken=outcomes.count("broken"),
        violations=outcomes.count("violation"),
        forward=sum(group.forward for group in groups),
        backward=sum(group.backward for group in groups),
        queries=sum(group.forward for group in groups),
        seconds=sum(group.seconds for group in groups),
    )


def _add_queries(queries: list[int | None], groups: Sequence[Group]) -> None:
    for group in groups:
        for row, spent in zip(group.rows, group.queries or [], strict=True):
            before = queries[row]
            queries[row] = None if before is None or spent is None else before + spent


def _cost(records: Records) -> Cost:
    judged = sum(len(group.rows) for group in records.groups if group.stage >= 0)
    return Cost(
        forward=sum(group.forward for group in records.groups) + judged,
        backward=sum(group.backward for group in records.groups),
        rows_run=sum(group.rows_run for group in records.groups),
        seconds=sum(group.seconds for group in records.groups),
    )


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None


def attack_flags(
    plan: Sequence[tuple[str, EvasionAttack[Any]]], goal: Goal, classes: int, result: Tally
) -> list[Flag]:
    """What the reader should know about the attacks that ran."""
    flags = []
    if result.violations:
        text = (
            f"{result.violations} returned examples were outside the perturbation set or over the "
            "budget. They count as survived."
        )
        flags.append(Flag(id="violations", severity="void", message=text))
    foreign = [name for name, attack in plan if not attack.order_free]
    if foreign:
        text = f"Results of {', '.join(foreign)} may depend on which examples share a batch."
        flags.append(Flag(id="foreign-attack", severity="info", message=text))
    if classes < 4 and any(getattr(attack, "loss", None) == "dlr" for _, attack in plan):
        text = (
            f"With {classes} classes the difference of logits ratio is not defined for every goal; "
            "the margin was used there."
        )
        flags.append(Flag(id="dlr-fallback", severity="info", message=text))
    chosen = [name for name, attack in plan if attack.access == Access.DECISION]
    if chosen and not isinstance(goal, Untargeted):
        text = (
            f"{', '.join(chosen)} start from images of the target class that are chosen among the "
            "evaluated ones: with other examples the results may differ."
        )
        flags.append(Flag(id="owned-images", severity="info", message=text))
    for name, attack in plan:
        dropped = getattr(attack, "dropped", None)
        for part, reason in dropped(classes) if dropped else ():
            flags.append(
                Flag(id="part-dropped", severity="info", message=f"{name}: {part}: {reason}")
            )
    return flags

"""From the records of a run to its report."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustkit.attacks import describe
from robustkit.data import LabelledImages
from robustkit.evaluation.effort import later_half
from robustkit.evaluation.plans import Line, Plan, by_stand_in
from robustkit.evaluation.records import Group, Records, finite
from robustkit.report import AttackRow, Cost, Draws, Effort, EpsPoint, ExampleRow, PassesPoint
from robustkit.report.evasion import Status
from robustkit.statistics import Interval, wilson

# The share of a lead from which on no attack is taken to have moved the example.
_UNMOVED = 0.98
# Points of a curve at most.
_POINTS = 200


@dataclass(frozen=True, slots=True)
class Tally:
    """What the records of a run add up to.

    Attributes:
        examples: One row per example, in the data's order.
        attacks: One row per attack that ran.
        references: One row per reference; not part of the cost.
        cost: Clean pass, search and judging together.
        scores: The accuracies.
        violations: Examples for which an attack returned something that is not allowed.
        over_passes: Robust accuracy over passes per example, without references; None where foreign
            code cannot tell.
        effort: What the second half of the plan's passes has found; None where nobody can tell.
        distances: (N,) float64, the smallest change found of each example: 0 where it was wrong
            before any attack, infinite where none was found.
    """

    examples: tuple[ExampleRow, ...]
    attacks: tuple[AttackRow, ...]
    references: tuple[AttackRow, ...]
    cost: Cost
    scores: "Scores"
    violations: int
    over_passes: tuple[PassesPoint, ...] | None
    effort: Effort | None
    distances: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """The accuracies of a run.

    Attributes:
        clean: Before any attack.
        direct: Under attacks on the model itself.
        surrogate: Under attacks by way of its stand-ins; None if it has none.
        worst: Under the worst attack for each example.
        draws: For a model that answers at random, accuracies by fresh draws; else None.
        tally: For such a model, the accuracy on the draws by which points were chosen.
    """

    clean: Interval
    direct: Interval
    surrogate: Interval | None
    worst: Interval
    draws: Draws | None = None
    tally: float | None = None


class Standing:
    """Which examples still stand, example by example, as groups of records come in."""

    def __init__(self, data: LabelledImages, records: Records, plan: Plan) -> None:
        """Args: examples, the records of a run of which the clean pass is complete, its plan."""
        self.clean_label = torch.full((len(data),), -1)
        self.was_right = torch.zeros(len(data), dtype=torch.bool)
        self.broken_by = torch.full((len(data),), -1)
        # By whether a stand-in had a part in it.
        self.fallen = {way: torch.zeros(len(data), dtype=torch.bool) for way in (False, True)}
        self.outcomes: list[dict[int, str]] = []
        self.plan = plan
        # The smallest change found at all, and that of the point by which an example fell.
        self.nearest = _each(data, torch.inf)
        self.decisive = _each(data, torch.inf)
        # Answers seen until an example fell; NaN where foreign code cannot tell.
        self.queries = _each(data, 0.0)
        # The clean pass is one, and so is each judgement; references are apart.
        self.passes = _each(data, 1.0)
        # Those of the plan until an example fell.
        self.spent = _each(data, torch.nan)
        self.clean_lead = _each(data, torch.nan)
        self.best_lead = _each(data, -torch.inf)
        for group in records.stage(-1):
            named = torch.tensor(group.labels)
            self.clean_label[group.rows] = named
            self.was_right[group.rows] = (
                named == data.labels[group.rows]
                if group.right is None
                else torch.tensor(group.right) > 0
            )
            self.clean_lead[group.rows] = _values(group.lead, torch.nan)

    def take(self, stage: int, groups: Sequence[Group]) -> None:
        """Take in what one attack did."""
        outcomes: dict[int, str] = {}
        stood = self.broken_by < 0
        found = torch.full_like(self.nearest, torch.inf)
        spent = torch.zeros_like(self.queries)
        for group in groups:
            outcomes.update(zip(group.rows, group.outcome or [], strict=True))
            found[group.rows] = _values(group.distance, torch.inf)
            spent[group.rows] = _values(group.queries, torch.nan)
            if self.plan[stage].role != "reference":
                self.passes[group.rows] += _values(group.passes, torch.nan) + 1
            if group.lead is not None:
                lead = _values(group.lead, -torch.inf)
                self.best_lead[group.rows] = self.best_lead[group.rows].maximum(lead)
        if self.plan[stage].role == "plan":
            self.spent = self.passes.where(stood, self.spent)
        self.outcomes.append(outcomes)
        self._fell(stage, groups)
        # Measuring distances, and attacks through stand-ins, come by at examples again that have
        # fallen before: what fell has its distance and its queries from when it did.
        self.nearest = self.nearest.minimum(found)
        self.queries += spent.where(stood, 0.0)
        self.decisive = found.where(stood & (self.broken_by >= 0), self.decisive)

    def _fell(self, stage: int, groups: Sequence[Group]) -> None:
        """Note which examples one attack broke."""
        for group in groups:
            fallen = [
                row
                for row, word in zip(group.rows, group.outcome or [], strict=True)
                if word == "broken"
            ]
            self.fallen[by_stand_in(group.through)][fallen] = True
            self.broken_by[[row for row in fallen if self.broken_by[row] < 0]] = stage

    @property
    def distance(self) -> Tensor:
        """(N,) how far the decisive point is; for who stands, the nearest that is known."""
        return self.decisive.where(self.broken_by >= 0, self.nearest)

    @property
    def rows(self) -> Tensor:
        """(M,) positions of the examples that no attack has broken and that were right at first."""
        return (self.was_right & (self.broken_by < 0)).nonzero()[:, 0]

    @property
    def right(self) -> Tensor:
        """(M,) positions of the examples that were right at first."""
        return self.was_right.nonzero()[:, 0]

    def left(self, line: Line) -> Tensor:
        """(M,) the rows that a line of the plan is given.

        They stand, with at most the share of their lead left that the line names; what no attack
        has measured counts as having nothing left, and so does what none has moved: those before
        may have been blind there. Through stand-ins alone, all are attacked that
        have not fallen that way: the accuracy under such attacks is a figure of its own.
        """
        if line.through.startswith("surrogate:"):
            right = self.right
            return right[~self.fallen[True][right]]
        rows, most = self.rows, line.lead_left
        if most is None:
            return rows
        share = self.best_lead[rows] / self.clean_lead[rows]
        unknown = ~self.best_lead[rows].isfinite() | share.isnan()
        return rows[unknown | (share <= most) | (share >= _UNMOVED)]

    def status(self, row: int) -> Status:
        """`misclassified`, `broken`, `violation`, `not_started` or `robust`."""
        if not self.was_right[row]:
            return "misclassified"
        if int(self.broken_by[row]) >= 0:
            return "broken"
        return self.unbroken_status(row)

    def scores(self, *, stand_ins: bool) -> Scores:
        """The accuracies; `stand_ins`: whether the model has any."""
        right = self.was_right
        by_way = {way: right & ~fallen for way, fallen in self.fallen.items()}
        return Scores(
            clean=_share(right),
            direct=_share(by_way[False]),
            surrogate=_share(by_way[True]) if stand_ins else None,
            worst=_share(right & (self.broken_by < 0)),
        )

    @property
    def violations(self) -> int:
        """How many examples some attack handed back as the threat does not allow."""
        words = [word for outcomes in self.outcomes for word in outcomes.items()]
        return len({row for row, word in words if word == "violation"})

    def unbroken_status(self, row: int) -> Status:
        """`violation`, `not_started` or `robust`, by what the attacks have handed back."""
        tried = [outcomes[row] for outcomes in self.outcomes if row in outcomes]
        if "violation" in tried:
            return "violation"
        return "not_started" if tried and set(tried) == {"not_started"} else "robust"


def tally(
    data: LabelledImages,
    records: Records,
    plan: Plan,
    standing: Standing,
) -> Tally:
    """Add up a finished run; `standing` has taken in nothing but the clean pass."""
    spent_when_broken: list[float] = []
    for stage, line in enumerate(plan):
        standing.take(stage, records.stage(stage))
        if line.role == "reference":
            continue
        spent_when_broken += standing.passes[standing.broken_by == stage].tolist()
    rows = [
        _attack_row(line, records.stage(stage), int((standing.broken_by == stage).sum()))
        for stage, line in enumerate(plan)
    ]
    statuses: list[Status] = [standing.status(row) for row in range(len(data))]
    distances, queries = finite(standing.distance), finite(standing.queries)
    examples = tuple(
        ExampleRow(
            id=int(data.ids[row]),
            label=int(data.labels[row]),
            clean_label=int(standing.clean_label[row]),
            status=statuses[row],
            attack=plan[by].name if (by := int(standing.broken_by[row])) >= 0 else None,
            distance=distances[row],
            queries=None if (asked := queries[row]) is None else int(asked),
        )
        for row in range(len(data))
    )
    wrong = statuses.count("misclassified")
    return Tally(
        examples=examples,
        attacks=tuple(
            row for row, line in zip(rows, plan, strict=True) if line.role != "reference"
        ),
        references=tuple(
            row for row, line in zip(rows, plan, strict=True) if line.role == "reference"
        ),
        cost=cost_of(records, plan),
        scores=standing.scores(stand_ins=any(by_stand_in(line.through) for line in plan)),
        violations=standing.violations,
        over_passes=_over_passes(spent_when_broken, standing, wrong),
        effort=_effort(plan, standing),
        distances=standing.nearest.where(standing.was_right, 0.0),
    )


def _share(rows: Tensor) -> Interval:
    return wilson(int(rows.sum()), len(rows))


def eps_curve(distances: Tensor, radii: Sequence[float], slack: float) -> tuple[EpsPoint, ...]:
    """Robust accuracy at several radii, from the smallest changes that were found at any.

    Args:
        distances: (N,) as in `Tally`.
        radii: The radii, in any order.
        slack: How far outside a radius rounding may take an image.
    """
    points = []
    for radius in sorted(set(radii)):
        inside = distances <= radius + slack
        points.append(EpsPoint(eps=radius, robust=1 - float(inside.double().mean())))
    return tuple(points)


def _over_passes(
    spent_when_broken: Sequence[float], standing: Standing, wrong: int
) -> tuple[PassesPoint, ...] | None:
    """Robust accuracy if every example were given up after so many passes; None if unknown."""
    count = len(standing.passes)
    if not bool(standing.passes.isfinite().all()):
        return None
    falls = torch.tensor(sorted(spent_when_broken))
    marks = sorted(set(falls.tolist()))
    if len(marks) > _POINTS:
        chosen = torch.linspace(0, len(marks) - 1, _POINTS).round().int()
        marks = [marks[number] for number in chosen.tolist()]
    points = [(1.0, 0), *((mark, int((falls <= mark).sum())) for mark in marks)]
    points.append((max(float(standing.passes.max()), points[-1][0]), len(falls)))
    return tuple(
        PassesPoint(passes=passes, robust=(count - wrong - fallen) / count)
        for passes, fallen in dict.fromkeys(points)
    )


def _effort(plan: Plan, standing: Standing) -> Effort | None:
    """What the second half of the plan's passes has found."""
    lines = [line for line in plan if line.role == "plan"]
    if any(line.attack.minimises for line in lines):
        # They spend all they may, whenever they find what.
        return None
    right = standing.right
    by_plan = torch.tensor([line.role == "plan" for line in plan])
    by = standing.broken_by[right]
    return later_half(standing.spent[right], (by >= 0) & by_plan[by])


def _attack_row(line: Line, groups: Sequence[Group], broken: int) -> AttackRow:
    outcomes = [outcome for group in groups for outcome in group.outcome or []]
    return AttackRow(
        name=line.name,
        options=describe(line.attack),
        through=line.through,
        lead_left=line.lead_left,
        examples_in=len(outcomes),
        broken=broken,
        violations=outcomes.count("violation"),
        forward=sum(group.forward for group in groups),
        backward=sum(group.backward for group in groups),
        queries=sum(_queries(group) for group in groups),
        seconds=sum(group.seconds for group in groups),
    )


def _queries(group: Group) -> int:
    """Answers seen; foreign code that cannot tell whose they were has seen one for each pass."""
    known = [spent for spent in group.queries or [] if spent is not None]
    return sum(known) if len(known) == len(group.rows) else group.forward


def cost_of(records: Records, plan: Plan) -> Cost:
    """What a run has cost, without references."""
    apart = {stage for stage, line in enumerate(plan) if line.role == "reference"}
    groups = [group for group in records.groups if group.stage not in apart]
    judged = sum(len(group.rows) for group in groups if group.stage >= 0)
    return Cost(
        forward=sum(group.forward + group.polled for group in groups) + judged,
        backward=sum(group.backward for group in groups),
        rows_run=sum(group.rows_run for group in groups),
        seconds=sum(group.seconds for group in groups),
    )


def _each(data: LabelledImages, value: float) -> Tensor:
    return torch.full((len(data),), value, dtype=torch.float64)


def _values(values: Sequence[float | None] | None, missing: float) -> Tensor:
    """(N,) recorded values; one for all where nothing was recorded."""
    found = [missing] if values is None else [missing if one is None else one for one in values]
    return torch.tensor(found, dtype=torch.float64)

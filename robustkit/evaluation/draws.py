"""Models that answer at random: points are chosen on some draws and scored on fresh ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustkit.attacks._eot import EOT
from robustkit.data import LabelledImages
from robustkit.evaluation.plans import Line, Plan, by_stand_in
from robustkit.evaluation.records import Group, Records
from robustkit.evaluation.summary import Scores, Standing
from robustkit.passes import padded
from robustkit.randomness import Streams
from robustkit.report import Draws
from robustkit.report.evasion import Status
from robustkit.statistics import Interval, wilson
from robustkit.threat_models import Objective
from robustkit.threat_models.answering import answer

# Draws on which a point is chosen, and fresh ones on which it is scored.
DRAWS = 20
# Draws over which the attacks average, one after the other, beyond single ones.
RUNGS = (10, 20, 100)


@dataclass(frozen=True, slots=True)
class Poll:
    """What a random model answered to points, over `DRAWS` draws.

    Attributes:
        wins: (N,) int64, how many draws reached the objective.
        right: (N,) int64, how many named the right class, or a set with it.
        labels: (N,) int64, the most frequent answer, as `Output.labels` has it.
    """

    wins: Tensor
    right: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True)
class Trial:
    """The judgement of points by their draws.

    Attributes:
        selected: How many of the draws for choosing reached each one's objective.
        scored: How many of the fresh draws did; None where a point before it was chosen.
        labels: The most frequent answer to each.
        passes: Forward passes.
        rows_run: Rows the hardware worked on.
    """

    selected: list[int]
    scored: list[int | None]
    labels: list[int]
    passes: int
    rows_run: int

    def majority(self) -> tuple[Tensor, Tensor]:
        """(N,) the most frequent answers, and (N,) bool whether most draws reached the goal.

        Those for choosing or the fresh ones: what most of either fell for is worth keeping.
        """
        chosen = 2 * torch.tensor(self.selected) > DRAWS
        fresh = torch.tensor([-1 if wins is None else wins for wins in self.scored])
        return torch.tensor(self.labels), chosen | (2 * fresh >= DRAWS)


@dataclass(frozen=True, kw_only=True)
class Jury:
    """Asks a random model about points again and again.

    Attributes:
        model: The model.
        width: Rows in which it is run.
        streams: The streams of some examples, by their positions, for a purpose.
    """

    model: nn.Module
    width: int
    streams: Callable[[Tensor, str], Streams]

    def poll(self, rows: Tensor, points: Tensor, wanted: Objective, purpose: str) -> Poll:
        """Ask about at most one width of points.

        Args:
            rows: (N,) positions of the examples, on the CPU.
            points: (N, C, H, W).
            wanted: What is wanted of each.
            purpose: `select` or `score`: their draws have nothing in common.
        """
        everyone = self.streams(rows, purpose)
        reached, right, named = [], [], []
        # All draws of all points one after the other, in full batches.
        numbers = torch.arange(DRAWS * len(rows), device=points.device)
        for part in torch.split(numbers, self.width):
            places = part % len(rows)
            streams = everyone.take(padded(places, self.width))
            draws = padded(part // len(rows), self.width)
            with torch.no_grad():
                found = answer(
                    self.model, padded(points[places], self.width), streams.on_lanes(draws)
                ).take(slice(0, len(part)))
            asked = wanted.take(places)
            reached.append(asked.reached(found))
            right.append(found.right(asked.labels))
            named.append(found.labels)
        return Poll(
            wins=torch.cat(reached).reshape(DRAWS, len(rows)).sum(0),
            right=torch.cat(right).reshape(DRAWS, len(rows)).sum(0),
            labels=torch.cat(named).reshape(DRAWS, len(rows)).mode(0).values,
        )

    def _rows_run(self, points: int) -> int:
        """Rows that a poll about so many points takes."""
        return -(-DRAWS * points // self.width) * self.width

    def clean(self, rows: Tensor, inputs: Tensor, wanted: Objective) -> tuple[Trial, list[int]]:
        """Judge clean images, at most one width; and how many fresh draws were right about each."""
        first = self.poll(rows, inputs, wanted, "select")
        fresh = self.poll(rows, inputs, wanted, "score")
        trial = Trial(
            selected=first.wins.tolist(),
            scored=fresh.wins.tolist(),
            labels=fresh.labels.tolist(),
            passes=2 * DRAWS * len(rows),
            rows_run=2 * self._rows_run(len(rows)),
        )
        return trial, fresh.right.tolist()

    def judge(
        self, rows: Tensor, points: Tensor, wanted: Objective, allowed: Tensor, best: Tensor
    ) -> Trial:
        """Judge points on draws for choosing and, where they are the best so far, on fresh ones.

        Args:
            rows: (N,) positions of the examples, on the CPU; at most one width.
            points: (N, C, H, W).
            wanted: What is wanted of each.
            allowed: (N,) bool: points that are not have reached nothing.
            best: (N,) how many draws the best point before reached.
        """
        first = self.poll(rows, points, wanted, "select")
        selected = torch.where(allowed, first.wins, 0)
        better = (selected.cpu() > best).nonzero()[:, 0]
        scored: list[int | None] = [None] * len(rows)
        if len(better):
            there = better.to(points.device)
            fresh = self.poll(rows[better], points[there], wanted.take(there), "score")
            for number, wins in zip(better.tolist(), fresh.wins.tolist(), strict=True):
                scored[number] = wins
        return Trial(
            selected=selected.tolist(),
            scored=scored,
            labels=first.labels.tolist(),
            passes=DRAWS * (len(rows) + len(better)),
            rows_run=self._rows_run(len(rows)) + self._rows_run(len(better)),
        )


def best_before(records: Records, count: int, stage: int, through: str) -> Tensor:
    """(count,) how many draws each example's best point reached before a stage.

    Attacks by way of stand-ins and others are compared among themselves: each kind has a score.
    """
    best = torch.zeros(count, dtype=torch.int64)
    for group in records.groups:
        same = group.stage < 0 or by_stand_in(group.through) == by_stand_in(through)
        if group.stage < stage and same and group.selected is not None:
            found = torch.tensor(group.selected)
            best[group.rows] = best[group.rows].maximum(found)
    return best


class Drawn(Standing):
    """Which examples of a random model still stand, and how often each point fools it.

    All are attacked, also those that are wrong on some draw, until a point is found that every draw
    for choosing falls for. The clean image is the first point.
    """

    def __init__(self, data: LabelledImages, records: Records, plan: Plan) -> None:
        """Args: examples, the records of a run of which the clean pass is complete, its plan."""
        super().__init__(data, records, plan)
        count = len(data)
        self.right_draws = torch.zeros(count, dtype=torch.int64)
        # By whether stand-ins had a part: draws that were reached, for choosing and fresh ones.
        # What was never asked about, another process is asked about: nothing is left to do.
        self.selected = {way: torch.full((count,), DRAWS) for way in (False, True)}
        self.scored = {way: torch.zeros(count, dtype=torch.int64) for way in (False, True)}
        self._gained = {way: torch.zeros(count, dtype=torch.bool) for way in (False, True)}
        # Fresh draws of the clean image that were neither right nor what the adversary wants, such
        # as refusals: they count as not robust whatever it does.
        self._lost = torch.zeros(count, dtype=torch.int64)
        # Nobody can say after how many passes an example has fallen that falls now and then.
        self.passes = torch.full((count,), torch.nan)
        for group in records.stage(-1):
            if group.selected is None or group.scored is None:
                continue
            right, scored = torch.tensor(group.right), torch.tensor(group.scored)
            self.right_draws[group.rows] = right
            self._lost[group.rows] = DRAWS - right - scored
            for way in (False, True):
                self.selected[way][group.rows] = torch.tensor(group.selected)
                self.scored[way][group.rows] = torch.tensor(group.scored)
        self.was_right = 2 * self.right_draws > DRAWS

    def _fell(self, stage: int, groups: Sequence[Group]) -> None:
        """Note the best points of one attack, and which examples most fresh draws fall for."""
        line = self.plan[stage]
        way = by_stand_in(line.through)
        averages = isinstance(line.attack, EOT) and line.attack.average > 1
        for group in groups:
            rows, found = torch.tensor(group.rows), torch.tensor(group.selected)
            fresh = torch.tensor([-1 if wins is None else wins for wins in group.scored or []])
            better = fresh >= 0
            self.selected[way][rows[better]] = found[better]
            self.scored[way][rows[better]] = fresh[better]
            self._gained[way][rows[better]] |= averages
        fallen = (2 * self._withstood() <= DRAWS) & self.was_right
        # The next point may be chosen by other draws and do worse on the fresh ones.
        self.broken_by[~fallen] = -1
        self.broken_by[fallen & (self.broken_by < 0)] = stage

    @property
    def rows(self) -> Tensor:
        """(M,) positions of the examples without a point that every draw falls for."""
        return (self.selected[False].maximum(self.selected[True]) < DRAWS).nonzero()[:, 0]

    def left(self, line: Line) -> Tensor:
        """(M,) the rows that a line is given.

        More draws than the first rung's are tried where averaging has gained something: the rule
        must not look at other examples.
        """
        if not line.through.startswith("surrogate:"):
            rows = self.rows
        else:
            rows = (self.selected[True] < DRAWS).nonzero()[:, 0]
        if isinstance(line.attack, EOT) and line.attack.average > RUNGS[0]:
            return rows[self._gained[by_stand_in(line.through)][rows]]
        return rows

    def status(self, row: int) -> Status:
        """`misclassified`, `broken`, `violation`, `not_started` or `robust`, by most draws."""
        if not self.was_right[row]:
            return "misclassified"
        if 2 * int(self._withstood()[row]) <= DRAWS:
            return "broken"
        return self.unbroken_status(row)

    def scores(self, *, stand_ins: bool) -> Scores:
        """The accuracies of one draw, averaged over the fresh ones."""
        worst = self._withstood()
        chosen = self.selected[False].maximum(self.selected[True])
        return Scores(
            clean=mean_share(self.right_draws),
            direct=mean_share(self._counted(DRAWS - self.scored[False])),
            surrogate=mean_share(self._counted(DRAWS - self.scored[True])) if stand_ins else None,
            worst=mean_share(worst),
            draws=summed_up(worst, self.was_right),
            tally=1 - float(chosen.double().mean()) / DRAWS,
        )

    def _withstood(self) -> Tensor:
        """(N,) how many of the fresh draws withstand the point that was chosen."""
        ahead = self.selected[True] > self.selected[False]
        return self._counted(DRAWS - torch.where(ahead, self.scored[True], self.scored[False]))

    def _counted(self, withstood: Tensor) -> Tensor:
        return (withstood - self._lost).clamp_min(0)


def mean_share(draws: Tensor) -> Interval:
    """The mean over (N,) examples of the share of their draws.

    The interval is Wilson's for N examples, as though each were right on all of its draws or on
    none: the draws of one example are no further examples, and no other spread is wider.
    """
    return wilson(float(draws.sum()) / DRAWS, len(draws))


def summed_up(withstood: Tensor, right: Tensor) -> Draws:
    """What a report says of (N,) numbers of draws withstood.

    Args:
        withstood: The numbers.
        right: (N,) bool: whether most draws were right about the clean image; where not, an example
            has been lost already, and lucky draws of a changed one win nothing back.
    """
    count = len(withstood)
    return Draws(
        count=DRAWS,
        mean=mean_share(withstood),
        majority=wilson(int((right & (2 * withstood > DRAWS)).sum()), count),
        all=wilson(int((right & (withstood == DRAWS)).sum()), count),
    )

"""What attacks on labels share: questions, an account of queries, and bisections.

Everything is row-aligned with the victims of a hunt. `rows` are indices of victims; several rows
may belong to one victim only where that is said. No question is asked that a victim cannot pay for.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from robustkit.randomness import Streams
from robustkit.threat_models import REFUSED, Decisions, Objective, PerturbationSet

# Rows in which noise is made and questions are asked where the view names no width.
_ROWS = 128

Path = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Question:
    """Points that a search asks about. It goes on when all of them have been answered.

    Attributes:
        rows: (K,) the victims who pay, one for each point.
        points: Called with one slice of them after the other, gives their points.
        learn: Told of the answers: the slice, its points, and bool whether they reached the
            objectives.
        patient: Many points for each victim, which may be spread over several batches to fill them.
    """

    rows: Tensor
    points: Callable[[slice], Tensor]
    learn: Callable[[slice, Tensor, Tensor], None]
    patient: bool = False


T = TypeVar("T")
# A search, or a part of one: it yields its questions, one at a time, and returns something.
Steps = Generator[Question, None, T]


@dataclass(slots=True)
class Hunt:
    """The nearest point found so far for every victim, and what each may still spend.

    Attributes:
        clean: (N, C, H, W) the inputs before the attack.
        objective: What is wanted of each.
        allowed: Gives distances and the value range.
        streams: One random stream per victim.
        width: Rows in which questions are asked.
        left: (N,) int64, queries each may still ask.
        point: (N, C, H, W) the nearest point that was asked about and reached the objective; the
            clean input where there is none.
        distance: (N,) float64, how far `point` lies; infinite where there is none.
    """

    clean: Tensor
    objective: Objective
    allowed: PerturbationSet
    streams: Streams
    width: int
    left: Tensor
    point: Tensor
    distance: Tensor

    @classmethod
    def begin(
        cls,
        view: Decisions,
        inputs: Tensor,
        objective: Objective,
        allowed: PerturbationSet,
        streams: Streams,
        *,
        queries: int,
    ) -> "Hunt":
        """Nothing found yet; without a budget in the view each victim may ask `queries` times."""
        left = view.remaining
        if left is None:
            left = torch.full((len(inputs),), queries, device=inputs.device)
        return cls(
            clean=inputs.detach(),
            objective=objective,
            allowed=allowed,
            streams=streams.on_lanes(0),
            width=view.width or _ROWS,
            left=left.clone(),
            point=inputs.detach().clone(),
            distance=torch.full(
                (len(inputs),), torch.inf, dtype=torch.float64, device=inputs.device
            ),
        )

    def started(self) -> Tensor:
        """(M,) the victims that have a point, are not there yet, and can pay for a query."""
        found = self.distance.isfinite() & (self.distance > 0)
        return (found & (self.left > 0)).nonzero()[:, 0]

    def boxed(self, points: Tensor) -> Tensor:
        """Points brought into the value range."""
        return points.clamp(self.allowed.low, self.allowed.high)

    def hear(self, points: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
        """Take in answers, and keep for every victim what is nearer than anything before.

        Args:
            points: (M, C, H, W) what was asked about.
            rows: (M,) the victims who paid; they may be named more than once.
            labels: (M,) what was answered; a refusal is no success, no number is one.

        Returns:
            (M,) bool: whether the points reach the objectives.
        """
        self.left.index_add_(0, rows, torch.full_like(rows, -1))
        if self.objective.targets is not None:
            won = labels == self.objective.targets[rows]
        else:
            won = (labels != REFUSED) & (labels != self.objective.labels[rows])
        places = won.nonzero()[:, 0]
        victims = rows[places]
        distance = self.allowed.distance(self.clean[victims], points[places])
        nearest = self.distance.scatter_reduce(0, victims, distance, "amin")
        better = (distance < self.distance[victims]) & (distance == nearest[victims])
        # The first of equals: a victim may be named more than once.
        places, victims = places[better], victims[better]
        first = torch.full_like(self.left, len(rows)).scatter_reduce(0, victims, places, "amin")
        changed = (first < len(rows)).nonzero()[:, 0]
        self.point[changed] = points[first[changed]]
        self.distance[changed] = nearest[changed]
        return won

    def try_out(self, points: Tensor, rows: Tensor) -> Steps[Tensor]:
        """Ask about one point of each of the victims `rows`.

        Returns:
            (M,) bool: whether the points reach the objectives.
        """
        won = torch.zeros_like(rows, dtype=torch.bool)

        def learn(part: slice, _: Tensor, answers: Tensor) -> None:
            won[part] = answers

        yield Question(rows, lambda part: points[part], learn)
        return won

    def on_segment(self, rows: Tensor, ends: Tensor) -> Path:
        """The straight lines from the clean inputs of `rows` (0) to `ends` (1)."""
        clean = self.clean[rows]
        change = ends - clean

        def path(places: Tensor, at: Tensor) -> Tensor:
            return self.boxed(clean[places] + columns(at).to(clean.dtype) * change[places])

        return path

    def bisect(
        self, rows: Tensor, path: Path, *, good: Tensor, bad: Tensor, gap: Tensor, rounds: int = 60
    ) -> Steps[Tensor]:
        """Halve the interval between a good and a bad place of every path until it is small.

        Args:
            rows: (M,) the victims, each once.
            path: Gives points: called with places in `rows` and one number for each.
            good: (M,) float64, where the objective is reached (asked about before).
            bad: (M,) float64, where it is taken not to be.
            gap: (M,) float64, the interval at which a search ends.
            rounds: Questions per victim at most.

        Returns:
            (M,) the last good place.
        """
        good, bad = good.clone(), bad.clone()
        for _ in range(rounds):
            busy = ((good - bad).abs() > gap) & (self.left[rows] > 0)
            places = busy.nonzero()[:, 0]
            if not len(places):
                break
            middle = (good[places] + bad[places]) / 2
            won = yield from self.try_out(path(places, middle), rows[places])
            good[places] = torch.where(won, middle, good[places])
            bad[places] = torch.where(won, bad[places], middle)
        return good

    def towards(self, rows: Tensor, gap: Tensor, *, ends: Tensor | None = None) -> Steps[None]:
        """Bisect the lines from the clean inputs to `ends`, by default to the points found."""
        goal = self.point[rows] if ends is None else ends
        ones = torch.ones(len(rows), dtype=torch.float64, device=rows.device)
        length = self.allowed.distance(self.clean[rows], goal).clamp_min(1e-300)
        path = self.on_segment(rows, goal)
        yield from self.bisect(rows, path, good=ones, bad=ones * 0, gap=gap / length)


def columns(values: Tensor) -> Tensor:
    """(N,) numbers shaped to be multiplied with (N, C, H, W)."""
    return values.reshape(-1, 1, 1, 1)

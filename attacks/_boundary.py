"""What attacks on labels share: an account of queries, bisections, and sums of random steps.

Everything is row-aligned with the victims of the view. `rows` are indices of victims; several rows
may belong to one victim only where that is said. No question is asked that a victim cannot pay for.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustkit.attacks._dct import smooth_normal
from robustkit.passes import padded
from robustkit.randomness import Streams
from robustkit.threat_models import Decisions, Objective, PerturbationSet

# Rows in which noise is made where the view names no width.
_ROWS = 128
# Binary digits of the fixed-point numbers in which noise is added up: sums of whole numbers do not
# depend on their order, on any device.
_FIXED = 2.0**32

Path = Callable[[Tensor, Tensor], Tensor]


@dataclass(slots=True)
class Hunt:
    """The nearest point found so far for every victim, and what each may still spend.

    Attributes:
        view: Labels.
        clean: (N, C, H, W) the inputs before the attack.
        objective: What is wanted of each.
        allowed: Gives distances and the value range.
        streams: One random stream per victim.
        left: (N,) int64, queries each may still ask.
        point: (N, C, H, W) the nearest point that was asked about and reached the objective; the
            clean input where there is none.
        distance: (N,) float64, how far `point` lies; infinite where there is none.
    """

    view: Decisions
    clean: Tensor
    objective: Objective
    allowed: PerturbationSet
    streams: Streams
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
            view=view,
            clean=inputs.detach(),
            objective=objective,
            allowed=allowed,
            streams=streams.on_lanes(0),
            left=left.clone(),
            point=inputs.detach().clone(),
            distance=torch.full(
                (len(inputs),), torch.inf, dtype=torch.float64, device=inputs.device
            ),
        )

    @property
    def width(self) -> int:
        """Rows in which questions are made and asked."""
        return self.view.width or _ROWS

    def started(self) -> Tensor:
        """(M,) the victims that have a point, are not there yet, and can pay for a query."""
        found = self.distance.isfinite() & (self.distance > 0)
        return (found & (self.left > 0)).nonzero()[:, 0]

    def boxed(self, points: Tensor) -> Tensor:
        """Points brought into the value range."""
        return points.clamp(self.allowed.low, self.allowed.high)

    def ask(self, points: Tensor, rows: Tensor) -> Tensor:
        """(M,) bool: whether points reach the objectives of the victims `rows`, who pay for them.

        A refused answer does not. Victims may be named more than once.
        """
        labels = self.view.labels(points, rows)
        self.left.index_add_(0, rows, torch.full_like(rows, -1))
        if self.objective.targets is not None:
            return labels == self.objective.targets[rows]
        return (labels >= 0) & (labels != self.objective.labels[rows])

    def try_out(self, points: Tensor, rows: Tensor) -> Tensor:
        """Ask, and keep for every victim what is nearer than anything before.

        Returns:
            (M,) bool, as `ask`.
        """
        won = self.ask(points, rows)
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

    def on_segment(self, rows: Tensor, ends: Tensor) -> Path:
        """The straight lines from the clean inputs of `rows` (0) to `ends` (1)."""
        clean = self.clean[rows]
        change = ends - clean

        def path(places: Tensor, at: Tensor) -> Tensor:
            return self.boxed(clean[places] + columns(at).to(clean.dtype) * change[places])

        return path

    def bisect(
        self, rows: Tensor, path: Path, *, good: Tensor, bad: Tensor, gap: Tensor, rounds: int = 60
    ) -> Tensor:
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
            won = self.try_out(path(places, middle), rows[places])
            good[places] = torch.where(won, middle, good[places])
            bad[places] = torch.where(won, bad[places], middle)
        return good

    def towards(self, rows: Tensor, gap: Tensor, *, ends: Tensor | None = None) -> None:
        """Bisect the lines from the clean inputs to `ends`, by default to the points found."""
        goal = self.point[rows] if ends is None else ends
        ones = torch.ones(len(rows), dtype=torch.float64, device=rows.device)
        length = self.allowed.distance(self.clean[rows], goal).clamp_min(1e-300)
        path = self.on_segment(rows, goal)
        self.bisect(rows, path, good=ones, bad=ones * 0, gap=gap / length)

    def packed(self, rows: Tensor, counts: Tensor) -> "list[tuple[Tensor, Tensor]]":
        """Cut many questions of each victim into batches as wide as the model is run.

        Args:
            rows: (M,) victims.
            counts: (M,) int64 questions of each.

        Returns:
            (places, numbers) of each batch: which of `rows` asks, and its how manieth question.
        """
        places = torch.arange(len(rows), device=rows.device).repeat_interleave(counts)
        first = (counts.cumsum(0) - counts).repeat_interleave(counts)
        numbers = torch.arange(len(places), device=rows.device) - first
        starts = range(0, len(places), self.width)
        return [
            (places[start : start + self.width], numbers[start : start + self.width])
            for start in starts
        ]


def columns(values: Tensor) -> Tensor:
    """(N,) numbers shaped to be multiplied with (N, C, H, W)."""
    return values.reshape(-1, 1, 1, 1)


def smooth_noise(
    streams: Streams, shape: tuple[int, ...], reduction: float, *, draw: Tensor, width: int
) -> Tensor:
    """`smooth_normal` for as many rows, made at a fixed width.

    The last bits of a matrix product may depend on the number of rows, so there is always the same.
    """
    parts = []
    for start in range(0, len(streams), width):
        rows = torch.arange(start, min(start + width, len(streams)), device=streams.ids.device)
        same = padded(rows, width)
        made = smooth_normal(streams.take(same), shape, reduction, draw=draw[same])
        parts.append(made[: len(rows)])
    return torch.cat(parts)


@dataclass(slots=True)
class Slope:
    """Adds up random directions by what was answered there, exactly and in any order.

    Attributes:
        total: (M, C, H, W) int64 sum of all directions, in fixed point.
        good: (M, C, H, W) int64 sum of those that reached the objective.
        asked: (M,) int64 directions.
        won: (M,) int64 directions that reached the objective.
    """

    total: Tensor
    good: Tensor
    asked: Tensor
    won: Tensor

    @classmethod
    def flat(cls, like: Tensor) -> "Slope":
        """Nothing seen yet."""
        zeros = torch.zeros(like.shape, dtype=torch.int64, device=like.device)
        count = torch.zeros(len(like), dtype=torch.int64, device=like.device)
        return cls(zeros, zeros.clone(), count, count.clone())

    def add(self, places: Tensor, directions: Tensor, won: Tensor) -> None:
        """Take in (K, C, H, W) directions and their (K,) bool answers at `places`."""
        fixed = (directions.double() * _FIXED).to(torch.int64)
        self.total.index_add_(0, places, fixed)
        self.good.index_add_(0, places[won], fixed[won])
        self.asked.index_add_(0, places, torch.ones_like(places))
        self.won.index_add_(0, places, won.to(torch.int64))

    def direction(self) -> Tensor:
        """(M, C, H, W) float64: towards the objective, answers weighed against their average.

        Where all answers are the same, the average direction, or away from it.
        """
        share = self.won.double() / self.asked.clamp_min(1)
        rising = self.good.double() - columns(share) * self.total.double()
        same = (self.won == 0) | (self.won == self.asked)
        sign = torch.where(self.won > 0, 1.0, -1.0).double()
        slope: Tensor = torch.where(columns(same), columns(sign) * self.total.double(), rising)
        return slope.div(_FIXED)

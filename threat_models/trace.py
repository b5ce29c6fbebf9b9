"""How near an attack came after how many queries, by the meter's word and not by the attack's."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustkit.errors import BadInput, ShapeMismatch
from robustkit.statistics import median_and_quartiles
from robustkit.threat_models.goal import Objective, Output
from robustkit.threat_models.perturbation import PerturbationSet


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Distances over all examples once each has spent so many queries.

    Attributes:
        queries: Queries per example.
        median: Median of the smallest distances found; infinite where half have found none.
        q25: Lower quartile.
        q75: Upper quartile.
        success: Share of examples for which a point within the radius was found.
    """

    queries: int
    median: float
    q25: float
    q75: float
    success: float


@dataclass(frozen=True, slots=True)
class DistancePoint:
    """How many examples an attack has come so near to, within so many queries.

    Attributes:
        queries: Queries per example.
        distance: The distance.
        success: Share of examples for which a point at most so far away was found.
    """

    queries: int
    distance: float
    success: float


class Trace:
    """The improvements of every example: points that were asked about, allowed and good.

    A point counts if it lies in the value range and its answer reached the objective. Set it as the
    observer of a meter before an attack runs, foreign ones included:

    Example:
        >>> from robustkit.threat_models import Access, LpBall, Meter, grant
        >>> from robustkit.randomness import Streams
        >>> model, clean = torch.nn.Flatten(), torch.rand(2, 1, 1, 3)
        >>> labels = clean.flatten(1).argmax(1)
        >>> meter = Meter(model, Streams.of(seed=0, ids=torch.arange(2)))
        >>> trace = Trace(clean, Objective(labels), LpBall(norm="l2", radius=0.5))
        >>> meter.observer = trace.observe
        >>> _ = grant(meter, Access.DECISION).labels(1 - clean)
        >>> trace.smallest([0, 1]).isfinite().tolist()
        [[False, True], [False, True]]
    """

    def __init__(self, clean: Tensor, objective: Objective, allowed: PerturbationSet) -> None:
        """Args: the meter's examples, what is wanted of them, and what gives distances."""
        self._clean = clean.detach()
        self._objective = objective
        self._allowed = allowed
        self._best = torch.full((len(clean),), torch.inf, dtype=torch.float64, device=clean.device)
        self._events: list[tuple[Tensor, Tensor, Tensor]] = []

    def observe(self, inputs: Tensor, payers: Tensor, output: Output, numbers: Tensor) -> None:
        """Take in a batch of queries.

        Args:
            inputs: (M, C, H, W) what was asked.
            payers: (M,) int64, which example pays; -1 for padding.
            output: The M answers.
            numbers: (M,) int64, how many queries the payer has spent with this one.
        """
        if inputs.shape[1:] != self._clean.shape[1:]:
            return
        rows = payers.clamp_min(0)
        good = (payers >= 0) & self._allowed.in_box(inputs)
        places = (good & self._objective.take(rows).reached(output)).nonzero()[:, 0]
        rows = rows[places]
        distance = self._allowed.distance(self._clean[rows], inputs.detach()[places])
        nearer = (distance < self._best[rows]).nonzero()[:, 0]
        if not len(nearer):
            return
        event = rows[nearer], numbers[places[nearer]], distance[nearer]
        self._best.scatter_reduce_(0, event[0], event[2], "amin")
        self._events.append(event)

    def smallest(self, budgets: Sequence[int]) -> Tensor:
        """(N, B) float64: the smallest distance each example had reached within each budget."""
        found = torch.full(
            (len(self._best), len(budgets)),
            torch.inf,
            dtype=torch.float64,
            device=self._best.device,
        )
        if not self._events:
            return found
        rows, numbers, distance = (
            torch.cat([event[k] for event in self._events]) for k in range(3)
        )
        for column, budget in enumerate(budgets):
            soon = numbers <= budget
            found[:, column].scatter_reduce_(0, rows[soon], distance[soon], "amin")
        return found


def distance_curve(
    distances: Tensor, budgets: Sequence[int], *, most: int = 50
) -> tuple[DistancePoint, ...]:
    """Success over distance, one curve for each number of queries.

    Every point is exact: so many examples had a point at most so far away. Between two points of
    one curve the share is that of the first. The first and the last distance found are among them;
    where nothing was found, there are none.

    Args:
        distances: (N, B) float64, as `Trace.smallest` gives them; infinite where nothing was found.
        budgets: The B numbers of queries.
        most: Points for each number of queries at most, 2 or more; evenly spaced in success.

    Raises:
        BadInput: No examples.
        ShapeMismatch: The budgets are not those of the distances.

    Example:
        >>> nearest = torch.tensor([[1.0], [torch.inf], [0.5], [0.5]]).double()
        >>> [(point.distance, point.success) for point in distance_curve(nearest, [10])]
        [(0.5, 0.5), (1.0, 0.75)]
    """
    _check_curve(distances, budgets)
    points = []
    for budget, column in zip(budgets, distances.T, strict=True):
        found, counts = column[column.isfinite()].unique(sorted=True, return_counts=True)
        share = counts.cumsum(0).double() / len(column)
        kept = torch.linspace(0, len(found) - 1, min(most, len(found))).round().long()
        points += [
            DistancePoint(queries=budget, distance=distance, success=success)
            for distance, success in zip(found[kept].tolist(), share[kept].tolist(), strict=True)
        ]
    return tuple(points)


def curve(distances: Tensor, budgets: Sequence[int], radius: float) -> tuple[CurvePoint, ...]:
    """Median, quartiles and success of examples over queries.

    Args:
        distances: (N, B) float64, as `Trace.smallest` gives them; infinite where nothing was found.
        budgets: The B numbers of queries.
        radius: What counts as success.

    Raises:
        BadInput: No examples.
        ShapeMismatch: The budgets are not those of the distances.

    Example:
        >>> curve(torch.tensor([[1.0, 0.25], [torch.inf, 0.75]]).double(), [10, 20], 0.5)[1].median
        0.5
    """
    _check_curve(distances, budgets)
    return tuple(
        CurvePoint(
            queries=budget,
            median=middle.median,
            q25=middle.q25,
            q75=middle.q75,
            success=float((column <= radius).double().mean()),
        )
        for budget, column in zip(budgets, distances.T, strict=True)
        for middle in [median_and_quartiles(column.tolist())]
    )


def _check_curve(distances: Tensor, budgets: Sequence[int]) -> None:
    if distances.ndim != 2 or distances.shape[1] != len(budgets):
        raise ShapeMismatch(
            f"{len(budgets)} budgets were given for distances of shape {tuple(distances.shape)}."
        )
    if not len(distances):
        raise BadInput("A curve needs at least one example.")

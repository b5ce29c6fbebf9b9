"""What attacks on labels alone need beside the others: images of their own, and curves."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from robustkit.data import LabelledImages
from robustkit.evaluation.records import Group, finite_or_none
from robustkit.randomness import Streams
from robustkit.report import Curves, DistancePoint, NearestKnown, QueriesPoint
from robustkit.statistics import median_and_quartiles
from robustkit.threat_models import ThreatModel, curve, distance_curve

# Images of its target class that the adversary owns for each example.
OWNED = 5
_MARKS = (250, 500, 1000, 2000, 5000, 10_000, 20_000)


def marks(threat: ThreatModel) -> tuple[int, ...]:
    """The numbers of queries at which distances are noted; none without a budget."""
    limit = threat.budget.queries
    return () if limit is None else (*(mark for mark in _MARKS if mark < limit), limit)


def owned_images(data: LabelledImages, targets: Tensor, streams: Streams) -> Tensor:
    """(N, OWNED, C, H, W) images of the target classes, chosen at random; NaN where there are few.

    The choice for an example does not depend on the order of the data.

    Args:
        data: Where they are taken from, by label.
        targets: (N,) the wanted classes.
        streams: One stream per example.
    """
    images = torch.full((len(targets), OWNED, *data.shape), torch.nan)
    for row, target in enumerate(targets.tolist()):
        suitable = (data.labels == target).nonzero()[:, 0]
        if not len(suitable):
            continue
        chooser = streams.take([row] * len(suitable)).fork("owned")
        keys = chooser.bits((1,), draw=data.ids[suitable].to(streams.ids.device))[:, 0]
        chosen = suitable[keys.cpu().argsort(stable=True)[:OWNED]]
        images[row, : len(chosen)] = data.inputs(chosen)
    return images.to(targets.device)


def label_curves(
    groups: Sequence[Group],
    rows: Sequence[int],
    threat: ThreatModel,
    known: Mapping[int, float] | None = None,
    *,
    slack: float = 0.0,
) -> Curves:
    """Distances and success over queries of one attack; empty if it was not traced on all examples.

    Args:
        groups: What the attack has recorded.
        rows: Positions of the examples that were right at the start.
        threat: The adversary.
        known: For each of these positions the smallest change that an attack with gradients found,
            infinite where it found none; None where none has looked.
        slack: How far outside the radius rounding may take an image.
    """
    found = {
        row: nearest
        for group in groups
        for row, nearest in zip(group.rows, group.nearest or [], strict=False)
    }
    budgets = marks(threat)
    if not budgets or not len(rows) or not found.keys() >= set(rows):
        return Curves()
    distances = torch.tensor(
        [[torch.inf if d is None else d for d in found[row]] for row in rows],
        dtype=torch.float64,
    )
    nearest = None if known is None else _nearest(distances, rows, known)
    radius = threat.allowed.radius + slack
    return Curves(
        queries=tuple(
            QueriesPoint(
                queries=point.queries,
                median=finite_or_none(point.median),
                q25=finite_or_none(point.q25),
                q75=finite_or_none(point.q75),
                success=point.success,
                times_nearest=None if nearest is None else _times(column, nearest),
            )
            for point, column in zip(curve(distances, budgets, radius), distances.T, strict=True)
        ),
        nearest=None if nearest is None else _quartiles(nearest),
        distances=tuple(
            DistancePoint(queries=point.queries, distance=point.distance, success=point.success)
            for point in distance_curve(distances, budgets)
        ),
    )


def _nearest(distances: Tensor, rows: Sequence[int], known: Mapping[int, float]) -> Tensor:
    """(N,) the smallest change known for each example, whoever found it."""
    others = torch.tensor([known[row] for row in rows], dtype=torch.float64)
    return distances.amin(1).minimum(others)


def _times(distances: Tensor, nearest: Tensor) -> float | None:
    """The median of distances in units of the smallest ones known; None if it is infinite."""
    found = distances.isfinite()
    ratio = (distances / nearest.clamp_min(1e-300)).where(found, torch.inf)
    return _quartiles(ratio).median


def _quartiles(values: Tensor) -> NearestKnown:
    middle = median_and_quartiles(values.tolist())
    return NearestKnown(
        median=finite_or_none(middle.median),
        q25=finite_or_none(middle.q25),
        q75=finite_or_none(middle.q75),
    )

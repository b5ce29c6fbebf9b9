"""GeoDA: marching from the clean input along the estimated normal of the boundary."""

import itertools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustkit.attacks._boundary import Hunt, Steps, columns
from robustkit.attacks._dct import dimensions
from robustkit.attacks._hunts import LabelAttack, check_at_least, check_positive
from robustkit.attacks._normals import look_around, smooth
from robustkit.attacks._starts import find_starts
from robustkit.threat_models.projection import lengths


@dataclass(frozen=True, kw_only=True, slots=True)
class GeoDA(LabelAttack):
    """Geometric decision-based attack: labels only, l2, for boundaries that are nearly flat.

    The boundary's normal is estimated at the nearest point from the labels of random steps; then
    the boundary is met on the ray from the clean input along that normal.

    Attributes:
        queries: Queries per example where the threat model sets no budget. A budget is spent whole.
        noise: Random steps in the first round.
        growth: Each round takes so many times the random steps of the one before.
        reduction: Random steps use only the lowest 1 / `reduction` of the frequencies per axis.
        step: Length of a random step, relative to the distance.
        tolerance: How near to the boundary a search comes, relative to the distance.
        tries: Random images tried as a start before an example is given up.

    Raises:
        BadInput: A hyper-parameter that means nothing.

    Reference:
        Rahmati, Moosavi-Dezfooli, Frossard, Dai: GeoDA: a geometric framework for black-box
        adversarial attacks. CVPR 2020.

    Differs from the reference:
        All images are searched together. Every point that is asked about lies in the value range.
        A targeted search starts from the nearest of the adversary's own images.
        The rounds grow by the reference's optimal factor, 0.6 ** (-2/3), from a fixed first one
        until the budget ends; there their number is fixed beforehand. Answers are weighed against
        their average. A ray is looked at only where it would be nearer than the best point, for one
        query, and the next estimate is taken at the best point. Steps are relative to the distance.

    Example:
        >>> GeoDA().norms
        frozenset({'l2'})
    """

    norms: ClassVar[frozenset[str]] = frozenset({"l2"})

    queries: int = 5000
    noise: int = 50
    growth: float = 0.6 ** (-2 / 3)
    reduction: float = 2.0
    step: float = 0.02
    tolerance: float = 5e-4
    tries: int = 50

    def __post_init__(self) -> None:
        """Refuse hyper-parameters that mean nothing."""
        check_at_least(1, queries=self.queries, noise=self.noise, tries=self.tries)
        check_at_least(1, growth=self.growth, reduction=self.reduction)
        check_positive(step=self.step, tolerance=self.tolerance)

    def search(self, hunt: Hunt) -> Steps[None]:
        """Alternate between looking around and marching along the normal."""
        yield from find_starts(hunt, tries=self.tries, better=0)
        rows = hunt.started()
        yield from hunt.towards(rows, self.tolerance * hunt.distance[rows])
        drawn = torch.zeros_like(hunt.left)
        length = self.step / dimensions(tuple(hunt.clean.shape[1:]), self.reduction) ** 0.5
        for number in itertools.count():
            rows = hunt.started()
            if not len(rows):
                break
            # Half of what is left at most: a normal is worth nothing without a ray.
            wanted = min(self.noise * self.growth**number, 1e9)
            counts = (hunt.left[rows] + 1).div(2, rounding_mode="floor").clamp_max(int(wanted))
            scale = length * hunt.distance[rows]
            slope = yield from look_around(
                hunt, rows, counts, drawn, scale=scale, noise=smooth(hunt, self.reduction)
            )
            yield from self._march(hunt, rows, slope)

    def _march(self, hunt: Hunt, rows: Tensor, slope: Tensor) -> Steps[None]:
        """Look for the boundary on the rays along `slope`, nearer than the best points."""
        rows, slope = rows[hunt.left[rows] > 0], slope[hunt.left[rows] > 0]
        if not len(rows):
            return
        distance = hunt.distance[rows]
        unit = slope / columns(lengths(slope).clamp_min(1e-300))
        ends = hunt.clean[rows] + (columns(distance) * unit).to(hunt.clean.dtype)
        path = hunt.on_segment(rows, ends)
        ones = torch.ones_like(distance)
        everywhere = torch.arange(len(rows), device=rows.device)
        won = yield from hunt.try_out(path(everywhere, ones * (1 - self.tolerance)), rows)
        good = won.nonzero()[:, 0]
        yield from hunt.bisect(
            rows[good],
            lambda places, at: path(good[places], at),
            good=ones[good] * (1 - self.tolerance),
            bad=ones[good] * 0,
            gap=ones[good] * self.tolerance,
        )

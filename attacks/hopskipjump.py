"""HopSkipJump: a step along the estimated normal, and back to the boundary; in linf too."""

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustkit.attacks._boundary import Hunt, Path, Steps, columns
from robustkit.attacks._hunts import LabelAttack, check_at_least, check_positive
from robustkit.attacks._normals import look_around, share, smooth
from robustkit.attacks._starts import find_starts
from robustkit.threat_models.projection import lengths

# How often a step is halved before it is given up.
_HALVINGS = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class HopSkipJump(LabelAttack):
    """HopSkipJump: labels only, in l2 and in linf, untargeted and targeted.

    The boundary's normal is estimated at the nearest point from the labels of random steps. From
    there a step is made along it, in linf along its signs, halved until it reaches the objective;
    then the boundary is met on the way back to the clean input, in linf by cutting the change to
    smaller and smaller balls.

    Attributes:
        queries: Queries per example where the threat model sets no budget. A budget is spent whole,
            but for a last query that could decide nothing.
        noise: Random steps in the first round; round i takes sqrt(i) times as many.
        step: Size of a random step: its length in units of the distance in l2, the size of a value
            in units of the distance in linf.
        tolerance: How near to the boundary a search comes, in units of what a random step leads
            towards it.
        tries: Random images tried as a start before an example is given up.
        candidates: Further directions looked at for a nearer start, for one query each.

    Raises:
        BadInput: A hyper-parameter that means nothing.

    Reference:
        Chen, Jordan, Wainwright: HopSkipJumpAttack: a query-efficient decision-based attack.
        IEEE S&P 2020.

    Differs from the reference:
        All images are searched together, each with its own account. Random steps and tolerances are
        relative to the distance alone, and larger: with the reference's a point moves less than
        float32 can tell in large images. A targeted search starts from the nearest of several of
        the adversary's images, an untargeted one from noise of several grains, compared by one
        query each. A step that was halved twelve times is given up. The nearest point that was ever
        answered as wanted is the result; the last round is cut so that the budget is spent.

    Example:
        >>> sorted(HopSkipJump.norms)
        ['l2', 'linf']
    """

    norms: ClassVar[frozenset[str]] = frozenset({"l2", "linf"})

    queries: int = 5000
    noise: int = 100
    step: float = 0.02
    tolerance: float = 1.0
    tries: int = 50
    candidates: int = 30

    def __post_init__(self) -> None:
        """Refuse hyper-parameters that mean nothing."""
        check_at_least(1, queries=self.queries, noise=self.noise, tries=self.tries)
        check_at_least(0, candidates=self.candidates)
        check_positive(step=self.step, tolerance=self.tolerance)

    def search(self, hunt: Hunt) -> Steps[None]:
        """Alternate between looking around, a step outwards and the way back."""
        yield from find_starts(hunt, tries=self.tries, better=self.candidates)
        rows = hunt.started()
        yield from self._back(hunt, rows, hunt.point[rows])
        drawn = torch.zeros_like(hunt.left)
        for iteration in itertools.count(1):
            rows = hunt.started()
            counts = share(hunt.left[rows], int(self.noise * math.sqrt(iteration)))
            rows, counts = rows[counts > 0], counts[counts > 0]
            if not len(rows):
                return
            scale = self.step * hunt.distance[rows] / _values_per_length(hunt)
            slope = yield from look_around(
                hunt, rows, counts, drawn, scale=scale, noise=smooth(hunt, 1)
            )
            yield from self._hop(hunt, rows, _steepest(hunt, slope), iteration)

    def _hop(self, hunt: Hunt, rows: Tensor, direction: Tensor, iteration: int) -> Steps[None]:
        """Step out along (M, C, H, W) directions of length one in the norm, then go back."""
        points, direction = hunt.point[rows], direction.to(hunt.clean.dtype)
        size = hunt.distance[rows] / math.sqrt(iteration)
        ends = points.clone()
        busy = torch.ones_like(rows, dtype=torch.bool)
        for _ in range(_HALVINGS):
            places = (busy & (hunt.left[rows] > 0)).nonzero()[:, 0]
            if not len(places):
                break
            step = columns(size[places]).to(points.dtype) * direction[places]
            tried = hunt.boxed(points[places] + step)
            won = yield from hunt.try_out(tried, rows[places])
            ends[places] = torch.where(columns(won), tried, ends[places])
            busy[places] = ~won
            size[places] = torch.where(won, size[places], size[places] / 2)
        found = (~busy).nonzero()[:, 0]
        yield from self._back(hunt, rows[found], ends[found])

    def _back(self, hunt: Hunt, rows: Tensor, ends: Tensor) -> Steps[None]:
        """Meet the boundary between `ends` and the clean inputs."""
        length = hunt.allowed.distance(hunt.clean[rows], ends).clamp_min(1e-300)
        path = hunt.on_segment(rows, ends) if _is_round(hunt) else _cuts(hunt, rows, ends, length)
        # A random step of length s in d dimensions leads s / sqrt(d) towards the boundary.
        finest = self.tolerance * self.step / math.sqrt(hunt.clean[0].numel())
        ones = torch.ones_like(length)
        # Nothing nearer than the best point is worth a query where the end lies beyond it.
        gap = finest * hunt.distance[rows] / length
        yield from hunt.bisect(rows, path, good=ones, bad=ones * 0, gap=gap)


def _is_round(hunt: Hunt) -> bool:
    return hunt.allowed.norm == "l2"


def _values_per_length(hunt: Hunt) -> float:
    """The length of a direction of normal values, in the units in which steps are given."""
    return math.sqrt(hunt.clean[0].numel()) if _is_round(hunt) else 1.0


def _steepest(hunt: Hunt, slope: Tensor) -> Tensor:
    """Like `slope`: the direction of length one in the norm that leads furthest along it."""
    if _is_round(hunt):
        return slope / columns(lengths(slope).clamp_min(1e-300))
    return slope.sign()


def _cuts(hunt: Hunt, rows: Tensor, ends: Tensor, length: Tensor) -> Path:
    """The changes towards `ends`, cut to balls from nothing (0) to their whole size (1)."""
    clean = hunt.clean[rows]
    change = ends - clean

    def path(places: Tensor, at: Tensor) -> Tensor:
        most = columns(at * length[places]).to(clean.dtype)
        return hunt.boxed(clean[places] + change[places].clamp(-most, most))

    return path

"""SurFree: random directions and circles, without estimating any normal."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustkit.attacks._boundary import Hunt, Steps, columns
from robustkit.attacks._dct import smooth_noise
from robustkit.attacks._hunts import LabelAttack, check_at_least
from robustkit.attacks._starts import find_starts
from robustkit.threat_models.projection import lengths

# Past directions that a new one is made orthogonal to.
_PAST = 10


@dataclass(slots=True)
class _Circles:
    """One circle per victim, row-aligned.

    Attributes:
        base: (N, C, H, W) float64: from the clean input to the point the circle starts at.
        side: (N, C, H, W) float64 across it, of the same length.
        past: (N, P, C, H, W) float32 unit directions taken before.
        drawn: (N,) int64 directions drawn.
        widest: (N,) float64, the largest angle tried first.
        probe: (N,) int64, which angle is tried next; the sign alternates, then the angle halves.
        good: (N,) float64, the widest angle that reached the objective; 0 for none.
        bad: (N,) float64, an angle beyond that did not.
        halvings: (N,) int64, how often it is still halved.
        fresh: (N,) bool: a new circle is due.
    """

    base: Tensor
    side: Tensor
    past: Tensor
    drawn: Tensor
    widest: Tensor
    probe: Tensor
    good: Tensor
    bad: Tensor
    halvings: Tensor
    fresh: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class SurFree(LabelAttack):
    """Surrogate-free search: labels only, l2, all queries spent on points that may be nearer.

    In the plane of the line to the clean input and a random direction across it, points on the
    circle over that line are tried at angles to both sides; where one reaches the objective, the
    widest such angle is bisected.

    Attributes:
        queries: Queries per example where the threat model sets no budget. A budget is spent whole.
        reduction: Directions use only the lowest 1 / `reduction` of the frequencies per axis.
        probes: Angles tried on a circle before another direction is drawn.
        halvings: Bisections of an angle.
        tries: Random images tried as a start before an example is given up.
        candidates: Further directions looked at for a nearer start, for one query each.

    Raises:
        BadInput: A hyper-parameter that means nothing.

    Reference:
        Maho, Furon, Le Merrer: SurFree: a fast surrogate-free black-box attack. CVPR 2021.

    Differs from the reference:
        All images are searched together, one query of each at a time. Directions are normal noise
        of low frequencies, not scaled by the image's own spectrum, and are made orthogonal to the
        10 before them instead of 100, which would take a hundred images of memory for each. A
        circle is tried at two angles to each side, the second half the first, instead of three in
        even steps; its first angle is twice the one that last held, or half the one that did not,
        instead of growing and shrinking by two per cent. The widest angle that holds is halved a
        fixed number of times and on its own side only. Starts are the nearest of several random
        images, or of the adversary's own, instead of a blend with one. Every point that is asked
        about lies in the value range. The last point is not refined by interpolation.

    Example:
        >>> SurFree().halvings
        4
    """

    norms: ClassVar[frozenset[str]] = frozenset({"l2"})

    queries: int = 5000
    reduction: float = 2.0
    probes: int = 4
    halvings: int = 4
    tries: int = 50
    candidates: int = 30

    def __post_init__(self) -> None:
        """Refuse hyper-parameters that mean nothing."""
        check_at_least(1, queries=self.queries, probes=self.probes, tries=self.tries)
        check_at_least(0, halvings=self.halvings, candidates=self.candidates)
        check_at_least(1, reduction=self.reduction)

    def search(self, hunt: Hunt) -> Steps[None]:
        """Circle after circle."""
        yield from find_starts(hunt, tries=self.tries, better=self.candidates)
        rows = hunt.started()
        yield from hunt.towards(rows, 1e-3 * hunt.distance[rows])
        circles = _empty(hunt)
        while len(rows := hunt.started()):
            self._draw(hunt, circles, rows[circles.fresh[rows]])
            yield from self._round(hunt, circles, rows)

    def _draw(self, hunt: Hunt, circles: _Circles, rows: Tensor) -> None:
        """New random directions across the lines of `rows`, and across those taken before."""
        if not len(rows):
            return
        shape = tuple(hunt.clean.shape[1:])
        streams = hunt.streams.fork("direction").take(rows)
        draw = circles.drawn[rows]
        noise = smooth_noise(streams, shape, self.reduction, draw=draw, width=hunt.width).double()
        base = hunt.point[rows].double() - hunt.clean[rows].double()
        radius = lengths(base).clamp_min(1e-300)
        for past in circles.past[rows].double().unbind(1):
            noise = noise - columns((noise * past).flatten(1).sum(1)) * past
        unit = base / columns(radius)
        noise = noise - columns((noise * unit).flatten(1).sum(1)) * unit
        noise = noise / columns(lengths(noise).clamp_min(1e-300))
        circles.past[rows, draw % _PAST] = noise.float()
        circles.base[rows] = base
        circles.side[rows] = noise * columns(radius)
        circles.drawn[rows] += 1
        circles.probe[rows] = 0
        circles.good[rows] = 0
        circles.halvings[rows] = 0
        circles.fresh[rows] = False

    def _round(self, hunt: Hunt, circles: _Circles, rows: Tensor) -> Steps[None]:
        """One query of each row: a probe, or the halving of an angle that held."""
        probe, halving = circles.probe[rows], circles.halvings[rows] > 0
        sign = 1.0 - 2.0 * (probe % 2).double()
        size = circles.widest[rows] * 0.5 ** probe.div(2, rounding_mode="floor").double()
        middle = (circles.good[rows] + circles.bad[rows]) / 2
        angle = torch.where(halving, middle, sign * size)
        cosine = columns(angle.cos())
        change = cosine * (cosine * circles.base[rows] + columns(angle.sin()) * circles.side[rows])
        won = yield from hunt.try_out(hunt.boxed(hunt.clean[rows] + change.float()), rows)
        first = won & ~halving
        # Beyond the probe that held lies the one before on this side, or the end of the circle.
        beyond = torch.where(probe < 2, sign * math.pi / 2, 2 * angle)
        end = sign.sign() * math.pi / 2
        beyond = torch.where(beyond.abs() > math.pi / 2, end, beyond)
        circles.bad[rows] = torch.where(first, beyond, torch.where(won, circles.bad[rows], angle))
        circles.good[rows] = torch.where(won, angle, circles.good[rows])
        left = torch.where(halving, circles.halvings[rows] - 1, 0)
        circles.halvings[rows] = torch.where(first, self.halvings, left)
        circles.probe[rows] = torch.where(halving | won, probe, probe + 1)
        over = (circles.halvings[rows] == 0) & (
            halving | won | (circles.probe[rows] >= self.probes)
        )
        circles.fresh[rows] = over
        # Angles grow where they hold and shrink where none does.
        reached = circles.good[rows].abs()
        wider = torch.where(reached > 0, (2 * reached).clamp(1e-3, math.pi / 4), size / 2)
        circles.widest[rows] = torch.where(over, wider.clamp_min(1e-3), circles.widest[rows])


def _empty(hunt: Hunt) -> _Circles:
    count = len(hunt.clean)
    zeros = torch.zeros_like(hunt.distance)
    whole = torch.zeros_like(hunt.left)
    image = torch.zeros_like(hunt.clean, dtype=torch.float64)
    return _Circles(
        base=image,
        side=image.clone(),
        past=hunt.clean.new_zeros(count, _PAST, *hunt.clean.shape[1:]),
        drawn=whole,
        widest=zeros + math.pi / 6,
        probe=whole.clone(),
        good=zeros,
        bad=zeros.clone(),
        halvings=whole.clone(),
        fresh=torch.ones_like(whole, dtype=torch.bool),
    )

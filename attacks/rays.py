"""RayS: searching the sign pattern along which the boundary is nearest, in linf."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustkit.attacks._boundary import Hunt, Steps
from robustkit.attacks._hunts import LabelAttack, check_at_least
from robustkit.errors import BadInput


@dataclass(slots=True)
class _Rays:
    """One ray per victim, row-aligned.

    Attributes:
        signs: (N, D) float32, +1 or -1: the pattern of the best ray.
        reach: (N,) float64, how far along it the objective is reached; the range's width at first.
        found: (N,) bool, whether it was.
        level: (N,) int64: blocks are 2 ** -level of the values.
        block: (N,) int64: which block is flipped next.
        good: (N,) float64, where the flipped ray that is being halved reaches the objective.
        bad: (N,) float64, where it does not.
        halving: (N,) bool: a flipped ray was better and is being halved.
    """

    signs: Tensor
    reach: Tensor
    found: Tensor
    level: Tensor
    block: Tensor
    good: Tensor
    bad: Tensor
    halving: Tensor

    def flipped(self, rows: Tensor) -> Tensor:
        """(M, D) the patterns of `rows` with their current block flipped."""
        size = self.signs.shape[1]
        place = torch.arange(size, device=rows.device)[None, :]
        blocks = 2 ** self.level[rows, None]
        inside = place * blocks // size == self.block[rows, None]
        # Before the first flip the pattern is tried as it is.
        inside = inside & (self.level[rows, None] > 0)
        signs = self.signs[rows]
        return torch.where(inside, -signs, signs)

    def turn(self, rows: Tensor) -> None:
        """Go on to the next block, after the last one to blocks of half the size."""
        self.block[rows] += 1
        over = rows[self.block[rows] >= 2 ** self.level[rows]]
        self.block[over] = 0
        self.level[over] += 1
        # Blocks of less than one value: all over again, with the largest.
        fine = over[2 ** (self.level[over] - 1) >= self.signs.shape[1]]
        self.level[fine] = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class RayS(LabelAttack):
    """Ray searching: labels only, linf, untargeted, without gradients.

    Looks for the pattern of signs along which the boundary is nearest. Blocks of the pattern, first
    large and then smaller ones, are flipped in turn; a flip is kept if the objective is reached at
    the best distance so far, which takes one query, and then the distance is bisected.

    Attributes:
        queries: Queries per example where the threat model sets no budget. A budget is spent whole.
        tolerance: How exactly distances are bisected, relative to the distance.

    Raises:
        BadInput: A hyper-parameter that means nothing.

    Reference:
        Chen, Gu: RayS: a ray searching method for hard-label adversarial attack. KDD 2020.

    Differs from the reference:
        All images are searched together, one query of each at a time. A flip counts from one
        tolerance nearer on, so that no query is spent on ties, and the tolerance is relative. After
        blocks of single values the search begins again with the largest. It does not end at the
        radius.

    Example:
        >>> sorted(RayS.goals)
        ['untargeted']
    """

    norms: ClassVar[frozenset[str]] = frozenset({"linf"})
    goals: ClassVar[frozenset[str]] = frozenset({"untargeted"})

    queries: int = 5000
    tolerance: float = 0.005

    def __post_init__(self) -> None:
        """Refuse hyper-parameters that mean nothing."""
        check_at_least(1, queries=self.queries)
        if not 0 < self.tolerance < 1:
            raise BadInput(f"tolerance is {self.tolerance}; it must lie between 0 and 1.")

    def search(self, hunt: Hunt) -> Steps[None]:
        """Ray after ray."""
        rows = (hunt.left > 0).nonzero()[:, 0]
        if not len(rows):
            return
        yield from hunt.try_out(hunt.clean[rows], rows)
        rays = self._straight(hunt)
        while len(rows := ((hunt.left > 0) & (hunt.distance > 0)).nonzero()[:, 0]):
            yield from self._round(hunt, rays, rows)

    @staticmethod
    def _straight(hunt: Hunt) -> _Rays:
        """Every value upwards, as far as the range goes."""
        reach = torch.full_like(hunt.distance, hunt.allowed.high - hunt.allowed.low)
        zeros = torch.zeros_like(hunt.left)
        return _Rays(
            signs=torch.ones_like(hunt.clean.flatten(1)),
            reach=reach,
            found=zeros.bool(),
            level=zeros,
            block=zeros.clone(),
            good=reach.clone(),
            bad=torch.zeros_like(reach),
            halving=zeros.bool(),
        )

    def _round(self, hunt: Hunt, rays: _Rays, rows: Tensor) -> Steps[None]:
        """One query of each row: a flip, or a halving of one that was better."""
        gap = self.tolerance * rays.reach[rows]
        halving = rays.halving[rows]
        nearer = torch.where(rays.found[rows], rays.reach[rows] - gap, rays.reach[rows])
        at = torch.where(halving, (rays.good[rows] + rays.bad[rows]) / 2, nearer.clamp_min(0))
        signs = rays.flipped(rows)
        change = (signs * at[:, None].to(signs.dtype)).reshape_as(hunt.clean[rows])
        won = yield from hunt.try_out(hunt.boxed(hunt.clean[rows] + change), rows)
        rays.good[rows] = torch.where(won, at, rays.good[rows])
        rays.bad[rows] = torch.where(won, torch.where(halving, rays.bad[rows], 0.0), at)
        close = (rays.good[rows] - rays.bad[rows]).abs() <= self.tolerance * rays.good[rows]
        going_on = (halving | won) & ~close
        rays.halving[rows] = going_on
        better = rows[(halving | won) & close]
        rays.signs[better] = rays.flipped(better)
        rays.reach[better] = rays.good[better]
        rays.found[better] = True
        rays.turn(rows[~going_on])

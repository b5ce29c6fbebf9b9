"""Fast minimum-norm attack: the nearest point that reaches the objective."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustkit.attacks._balls import columns, project
from robustkit.attacks.losses import LOSSES, AttackLoss
from robustkit.attacks.rows import Rows
from robustkit.attacks.steps import steepest
from robustkit.attacks.stepwise import Stepwise
from robustkit.errors import BadInput
from robustkit.threat_models import PerturbationSet

# At the last step: its length as a share of the first one's, and by which share the ball changes.
_LAST_STEP, _LAST_GAMMA = 0.01, 0.001
# The share of the steps that follow the cross-entropy unless a loss is given.
_EARLY = {"linf": 0.0, "l2": 0.25, "l1": 1.0}
# In l1, a step before the projection is this many times as long as the radius.
_L1_STEP = 20.0


@dataclass(slots=True)
class _State:
    """Everything is row-aligned.

    Attributes:
        rows: The examples.
        point: (N, C, H, W) what is tried next.
        best: Like `point`: the nearest point found; the clean image before one is.
        distance: (N,) float64, how far that is; infinite before one is found.
        radius: (N,) float64, of the present ball.
        reached: (N,) bool, whether `point` reaches the objective, once it has been tried.
        step: (N,) int64, steps taken.
    """

    rows: Rows
    point: Tensor
    best: Tensor
    distance: Tensor
    radius: Tensor
    reached: Tensor
    step: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class FMN(Stepwise[_State]):
    """Fast minimum-norm attack in linf, l2 and l1.

    Follows the gradient inside a ball that shrinks where the point reaches the objective and grows
    where it does not, both ever more slowly. It goes on after a success and gives back the nearest
    point it saw, whatever the threat model's radius; the clean image where it saw none.

    Attributes:
        steps: Steps, each for one gradient.
        step_size: Length of the first step in units of the present radius; the last one is a
            hundredth of it.
        gamma: By which share the ball changes at first; by a thousandth in the end.
        loss: `margin`, `cross-entropy` or `dlr`; by default the margin in linf, and the
            cross-entropy, which does not settle on the class that is ahead at the start, in l1 and
            for a quarter of the steps in l2.

    Raises:
        BadInput: A hyper-parameter that means nothing.

    Reference:
        Pintor, Roli, Brendel, Biggio: Fast minimum-norm adversarial attacks through adaptive norm
        constraints. NeurIPS 2021.

    Differs from the reference:
        Steps are as long as the present ball rather than 1, so that they suit every norm and size
        of image, and in linf they follow the sign of the gradient. The point is brought into ball
        and value range together. Before the first success, the ball never shrinks. How far away the
        boundary is, the cross-entropy tells no better than the margin, since it is not 0 there.

    Example:
        >>> FMN().minimises
        True
    """

    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1"})
    minimises: ClassVar[bool] = True

    steps: int = 100
    step_size: float = 1.0
    gamma: float = 0.05
    loss: AttackLoss | None = None

    def __post_init__(self) -> None:
        """Refuse hyper-parameters that mean nothing."""
        if self.steps < 1:
            raise BadInput(f"FMN takes {self.steps} steps; it must take at least 1.")
        if not self.step_size > 0:
            raise BadInput(f"FMN's step_size is {self.step_size}; it must be larger than 0.")
        if not 0 < self.gamma < 1:
            raise BadInput(f"FMN's gamma is {self.gamma}; it must lie in (0, 1).")
        if self.loss is not None and self.loss not in LOSSES:
            raise BadInput(f"The loss {self.loss!r} is unknown. Use one of: {', '.join(LOSSES)}.")

    def begin(self, rows: Rows) -> _State:
        """Start at the clean image."""
        none = torch.zeros_like(rows.index)
        endless = torch.full_like(none, torch.inf, dtype=torch.float64)
        return _State(
            rows=rows,
            point=rows.clean,
            best=rows.clean,
            distance=endless,
            radius=torch.zeros_like(endless),
            reached=torch.zeros_like(none, dtype=torch.bool),
            step=none,
        )

    def propose(self, state: _State) -> Tensor:
        """The current point."""
        return state.point

    def gain(self, state: _State, logits: Tensor) -> Tensor:
        """The chosen loss, or where none is the cross-entropy early on and the margin then."""
        objective, early = state.rows.objective, self._early(state)
        if early in (0, 1):
            loss = self.loss or ("cross-entropy" if early else "margin")
            return LOSSES[loss](logits, objective)
        far, near = LOSSES["cross-entropy"](logits, objective), LOSSES["margin"](logits, objective)
        return torch.where(self._far(state), far, near)

    def _early(self, state: _State) -> float:
        """The share of the steps that follow the cross-entropy."""
        if self.loss is not None:
            return float(self.loss == "cross-entropy")
        return _EARLY[state.rows.allowed.norm]

    def _far(self, state: _State) -> Tensor:
        """(N,) bool: the rows that follow the cross-entropy."""
        return state.step < self.steps * self._early(state)

    def wins(self, state: _State, reached: Tensor) -> Tensor:
        """None: a nearer point may follow. Which points reach the objective is kept."""
        state.reached = reached
        return torch.zeros_like(reached)

    def result(self, state: _State) -> Tensor:
        """The nearest point found."""
        return state.best

    def update(self, state: _State, logits: Tensor, gradient: Tensor) -> Tensor:
        """Keep the point if it is the nearest, change the ball, take a step inside it."""
        allowed, clean = state.rows.allowed, state.rows.clean
        here = allowed.distance(clean, state.point)
        nearer = state.reached & (here < state.distance)
        state.best = torch.where(columns(nearer, clean), state.point, state.best)
        state.distance = torch.where(nearer, here, state.distance)
        falling = (1 + torch.cos(math.pi * state.step.double() / self.steps)) / 2
        gamma = _LAST_GAMMA + (self.gamma - _LAST_GAMMA) * falling
        self._resize(state, gamma, here + self._ahead(state, logits, gradient))
        length = self.step_size * (_LAST_STEP + (1 - _LAST_STEP) * falling) * state.radius
        step = _direction(gradient, state.point, allowed) * columns(length, clean).to(clean.dtype)
        state.point = project(clean, state.point + step, state.radius, allowed)
        state.step = state.step + 1
        return state.step >= self.steps

    def _ahead(self, state: _State, logits: Tensor, gradient: Tensor) -> Tensor:
        """(N,) float64: how far away the boundary is, if the loss is linear and 0 there.

        For the cross-entropy, which is not, at most where the margin would be: it falls faster by
        the probability of the other classes.
        """
        order = {"linf": 1, "l2": 2, "l1": torch.inf}[state.rows.allowed.norm]
        slope = torch.linalg.vector_norm(gradient.flatten(1), order, dim=1, dtype=torch.float64)
        loss = self.gain(state, logits).double().abs()
        lead = LOSSES["margin"](logits, state.rows.objective).double().abs()
        bound = loss.minimum(-torch.expm1(-loss) * lead)
        ahead: Tensor = torch.where(self._far(state), bound, loss) / slope.clamp_min(1e-300)
        return ahead

    def _resize(self, state: _State, gamma: Tensor, ahead: Tensor) -> None:
        """A smaller ball after a success, else a larger one; before the first, up to `ahead`."""
        smaller = (state.radius * (1 - gamma)).minimum(state.distance)
        larger = state.radius * (1 + gamma)
        larger = torch.where(state.distance.isfinite(), larger, larger.maximum(ahead))
        radius = torch.where(state.reached, smaller, larger)
        state.radius = radius.nan_to_num(nan=0.0).minimum(_widest(state.rows))


def _widest(rows: Rows) -> Tensor:
    """(N,) float64: the distance of the farthest point of the value range."""
    ends = torch.where(
        rows.clean - rows.allowed.low > rows.allowed.high - rows.clean,
        rows.allowed.low,
        rows.allowed.high,
    )
    return rows.allowed.distance(rows.clean, ends)


def _direction(gradient: Tensor, point: Tensor, allowed: PerturbationSet) -> Tensor:
    """Like `gradient`: of length one; in l1 dense, and so long that the projection thins it out."""
    if allowed.norm != "l1":
        return steepest(gradient, point, allowed, sparsity=1.0)
    length = gradient.abs().flatten(1).sum(1, dtype=torch.float64).clamp_min(1e-300)
    return (_L1_STEP * gradient / columns(length, gradient)).to(gradient.dtype)

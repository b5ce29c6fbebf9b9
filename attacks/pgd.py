"""Projected gradient descent."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustkit.attacks.losses import LOSSES, AttackLoss
from robustkit.attacks.rows import Rows
from robustkit.attacks.steps import reach, steepest
from robustkit.attacks.stepwise import Stepwise
from robustkit.errors import BadInput


@dataclass(slots=True)
class _State:
    rows: Rows
    point: Tensor
    velocity: Tensor
    step: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class PGD(Stepwise[_State]):
    """Projected gradient descent in linf, l2 and l1.

    Each step moves along the steepest direction of the norm and projects back onto the ball and the
    value range. An example leaves at its first success; an attempt that fails ends at its last
    point.

    Attributes:
        steps: Steps per attempt, each for one gradient. An attempt that another one follows takes
            one pass more, to see where its last step led.
        step_size: Length of a step in units of the radius; by default 2.5 / steps.
        loss: `cross-entropy`, `margin` or `dlr`.
        random_start: Start at a random point of the ball instead of the clean image.
        restarts: Attempts per example, each with a fresh start.
        momentum: Share of the earlier directions that is kept; 0 is plain PGD, 1 the momentum
            method.
        sparsity: In l1, the share of values that one step moves.

    Raises:
        BadInput: A hyper-parameter that means nothing.

    Reference:
        Madry, Makelov, Schmidt, Tsipras, Vladu: Towards deep learning models resistant to
        adversarial attacks. ICLR 2018. Momentum: Dong et al.: Boosting adversarial attacks with
        momentum. CVPR 2018. Sparse l1 steps: Tramer, Boneh: Adversarial training and robustness for
        multiple perturbations. NeurIPS 2019.

    Differs from the reference:
        Success is tested at every point on the logits that give its gradient, and ends the attempt.
        The projection is never part of the differentiated graph. In l1, values at the end of their
        range are not stepped on, and the projection is exact for ball and range together.

    Example:
        >>> from robustkit import evaluate
        >>> report = evaluate("builtin:cifar10-resnet18", "samples:cifar10", "linf",
        ...                   attacks=[PGD(steps=10)])  # doctest: +SKIP
    """

    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1"})

    steps: int = 40
    step_size: float | None = None
    loss: AttackLoss = "cross-entropy"
    random_start: bool = True
    restarts: int = 1
    momentum: float = 0.0
    sparsity: float = 0.05

    def __post_init__(self) -> None:
        """Refuse hyper-parameters that mean nothing."""
        if self.steps < 1 or self.restarts < 1:
            raise BadInput(
                f"PGD takes {self.steps} steps and {self.restarts} restarts; both must be at "
                f"least 1."
            )
        if self.step_size is not None and not self.step_size > 0:
            raise BadInput(f"PGD's step_size is {self.step_size}; it must be larger than 0.")
        if not 0 <= self.momentum <= 1 or not 0 < self.sparsity <= 1:
            raise BadInput("PGD's momentum must lie in [0, 1] and its sparsity in (0, 1].")
        if self.loss not in LOSSES:
            raise BadInput(f"The loss {self.loss!r} is unknown. Use one of: {', '.join(LOSSES)}.")

    @property
    def attempts(self) -> int:
        """The number of restarts."""
        return self.restarts

    def begin(self, rows: Rows) -> _State:
        """Start at the clean image or at a random allowed point."""
        point = rows.clean
        if self.random_start:
            point = rows.allowed.sample(point, streams=rows.streams.fork("start"))
        point = rows.begin_at(point)
        return _State(rows, point, torch.zeros_like(point), torch.zeros_like(rows.index))

    def propose(self, state: _State) -> Tensor:
        """The current point."""
        return state.point

    def gain(self, state: _State, logits: Tensor) -> Tensor:
        """The chosen loss."""
        return LOSSES[self.loss](logits, state.rows.objective)

    def update(self, state: _State, logits: Tensor, gradient: Tensor) -> Tensor:
        """One step along the steepest direction, projected back."""
        allowed = state.rows.allowed
        if self.momentum:
            scale = gradient.abs().flatten(1).mean(1, dtype=torch.float64).clamp_min(1e-300)
            unit = (gradient / scale.reshape(-1, 1, 1, 1)).to(gradient.dtype)
            gradient = state.velocity = self.momentum * state.velocity + unit
        length = reach(allowed, gradient) * (self.step_size or 2.5 / self.steps)
        direction = steepest(gradient, state.point, allowed, sparsity=self.sparsity)
        moved = direction.mul_(length).add_(state.point)
        state.point = allowed.project(state.rows.clean, moved)
        state.step = state.step + 1
        another = state.rows.attempt + 1 < self.restarts
        return state.step >= self.steps + another.to(state.step.dtype)

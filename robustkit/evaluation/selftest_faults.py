"""Attacks with faults that people make, planted so that the self-test must find them.

None of them is registered, and nothing but the self-test uses them.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustkit.attacks import EvasionAttack
from robustkit.attacks.losses import cross_entropy
from robustkit.attacks.steps import input_gradient, steepest
from robustkit.randomness import Streams
from robustkit.threat_models import Access, Gradients, Objective, PerturbationSet


@dataclass(frozen=True, kw_only=True, slots=True)
class _Faulty(EvasionAttack[Gradients]):
    """PGD on the cross-entropy; the subclasses do one thing wrong.

    Attributes:
        steps: Steps, each for one gradient.
        step_size: Length of a step in units of the radius.
    """

    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2"})

    steps: int = 40
    step_size: float = 0.1

    def run(
        self,
        view: Gradients,
        inputs: Tensor,
        objective: Objective,
        allowed: PerturbationSet,
        *,
        streams: Streams,
    ) -> Tensor:
        """Change inputs so that the objective is reached; see `EvasionAttack.run`."""
        point = inputs
        for _ in range(self.steps):
            variable = point.detach().requires_grad_()
            logits = view.logits(variable)
            gradient = input_gradient(cross_entropy(logits, objective), variable)
            moved = self._stepped(gradient, point, allowed)
            point = self._brought_back(inputs, point, moved, allowed).detach()
        return point

    def _brought_back(
        self, inputs: Tensor, point: Tensor, moved: Tensor, allowed: PerturbationSet
    ) -> Tensor:
        """Where a step from `point` to `moved` ends."""
        return allowed.project(inputs, moved)

    def _stepped(self, gradient: Tensor, point: Tensor, allowed: PerturbationSet) -> Tensor:
        direction = steepest(gradient, point, allowed, sparsity=1.0)
        return point + self.step_size * allowed.radius * direction


@dataclass(frozen=True, kw_only=True, slots=True)
class ClampInside(_Faulty):
    """Asks for the gradient through the clamp to the value range.

    Where an image is 0 or 1 and the change points outside, the clamp cuts, its slope is zero, and
    the value never comes back. Nothing is all zero, so that no check of gradients notices.
    """

    def run(
        self,
        view: Gradients,
        inputs: Tensor,
        objective: Objective,
        allowed: PerturbationSet,
        *,
        streams: Streams,
    ) -> Tensor:
        """Change inputs so that the objective is reached; see `EvasionAttack.run`."""
        # A ball without ends, so that only the clamp keeps the range.
        noise = (2 * streams.fork("start").uniform(inputs.shape[1:]) - 1) * allowed.radius
        change = _shrunk(noise, allowed) if allowed.norm == "linf" else _shrunk(noise / 8, allowed)
        kept, won = inputs, torch.zeros_like(objective.labels, dtype=torch.bool)
        for _ in range(self.steps + 1):
            change = change.detach().requires_grad_()
            point = (inputs + change).clamp(allowed.low, allowed.high)
            output = view.answer(point)
            gradient = input_gradient(cross_entropy(output.logits, objective), change)
            kept = torch.where(won[:, None, None, None], kept, point.detach())
            won = won | objective.reached(output)
            with torch.no_grad():
                change = _shrunk(self._stepped(gradient, change, allowed), allowed)
        return kept


@dataclass(frozen=True, kw_only=True, slots=True)
class Recentred(_Faulty):
    """Projects around its last point instead of the clean image, and so walks out of the ball."""

    def _brought_back(
        self, inputs: Tensor, point: Tensor, moved: Tensor, allowed: PerturbationSet
    ) -> Tensor:
        """Projected around the last point."""
        return allowed.project(point, moved)


@dataclass(frozen=True, kw_only=True, slots=True)
class Unclamped(_Faulty):
    """Keeps the ball and forgets the value range."""

    def _brought_back(
        self, inputs: Tensor, point: Tensor, moved: Tensor, allowed: PerturbationSet
    ) -> Tensor:
        """Into the ball alone."""
        return inputs + _shrunk(moved - inputs, allowed)


def _shrunk(change: Tensor, allowed: PerturbationSet) -> Tensor:
    """Into the ball, whatever the range."""
    if allowed.norm == "linf":
        return change.clamp(-allowed.radius, allowed.radius)
    length = torch.linalg.vector_norm(change.flatten(1), dim=1)[:, None, None, None]
    shrunk: Tensor = change * (allowed.radius / length.clamp_min(1e-30)).clamp_max(1)
    return shrunk

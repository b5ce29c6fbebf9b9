"""The model as foreign code may ask it."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from robustkit.attacks.steps import no_gradient
from robustkit.errors import BudgetExceeded
from robustkit.threat_models import (
    Decisions,
    Gradients,
    Objective,
    Output,
    PerturbationSet,
    Scores,
)


class Questions(nn.Module):
    """The view's module as foreign code gets it.

    A gradient reaches the inputs and never the model's parameters. A batch of no rows is answered
    without the model. A question that is no number ends the search, which has divided by zero
    somewhere and would return it. Errors of the model are told apart from those of foreign code.

    Attributes:
        best: (1, C, H, W) of a watched example: the nearest allowed point asked about that reached
            the objective; None so far.
        failure: What the model raised, if it did.
        spent: Whether the budget has ended.
        asked: Whether any question was put.
    """

    def __init__(self, view: Decisions) -> None:
        """Args: what the foreign code may see."""
        super().__init__()
        self.best: Tensor | None = None
        self.failure: Exception | None = None
        self.spent = False
        self.asked = False
        self._view = view
        self._classes = 0
        self._distance = float("inf")
        self._remember: Callable[[Tensor, Output], None] | None = None
        self.eval()

    def watch(
        self, clean: Tensor, objective: Objective, allowed: PerturbationSet, *, minimises: bool
    ) -> None:
        """Remember the best point for the view's only victim; `clean` and `objective` have a row.

        Where `minimises`, points outside the radius count too.
        """

        def remember(points: Tensor, output: Output) -> None:
            same = torch.zeros(len(points), dtype=torch.int64, device=points.device)
            origin = clean.expand_as(points)
            fits = allowed.in_box(points) if minimises else allowed.contains(origin, points)
            good = (objective.take(same).reached(output) & fits).nonzero()[:, 0]
            if not len(good):
                return
            distance = allowed.distance(origin[good], points[good])
            nearest = int(distance.argmin())
            if float(distance[nearest]) < self._distance:
                self._distance = float(distance[nearest])
                self.best = points[good[nearest]][None].clone()

        self._remember = remember

    def forward(self, inputs: Tensor) -> Tensor:
        """(M, K) logits, as far as the view grants them."""
        self.asked = True
        if not len(inputs):
            return inputs.new_zeros(0, self._classes)
        if not bool(inputs.isfinite().all()):
            raise _NoNumber
        if torch.is_grad_enabled() and inputs.requires_grad:
            logits: Tensor = _InputGradient.apply(inputs, self)
            return logits
        with torch.no_grad():
            return self.ask(inputs)

    def ask(self, inputs: Tensor) -> Tensor:
        """One question to the model."""
        with self.blaming_the_model():
            output = self._answer(inputs)
        self._classes = output.logits.shape[1]
        if self._remember is not None:
            with torch.no_grad():
                self._remember(inputs.detach(), output)
        return output.logits

    def _answer(self, inputs: Tensor) -> Output:
        view = self._view
        if isinstance(view, Gradients) and len(view) == 1:
            payer = torch.zeros(len(inputs), dtype=torch.int64, device=inputs.device)
            return view.answer(inputs, payer)
        logits = view.module(inputs)
        # A view of labels answers a row of zeros where the model refused.
        return Output(logits, None if isinstance(view, Scores) else ~logits.bool().any(1))

    @contextlib.contextmanager
    def blaming_the_model(self) -> Iterator[None]:
        """Note down what is raised inside, so that it is not taken for an error of foreign code."""
        try:
            yield
        except BudgetExceeded:
            self.spent = True
            raise
        except Exception as error:
            self.failure = error
            raise


class _NoNumber(Exception):
    """Foreign code asked about NaN or infinity."""


class _InputGradient(torch.autograd.Function):
    """A question whose gradient stops at the inputs, whoever calls `backward` on it."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, module: Questions) -> Tensor:  # noqa: ANN401
        with torch.enable_grad():
            leaf = inputs.detach().requires_grad_()
            logits = module.ask(leaf)
        ctx.leaf, ctx.logits, ctx.module = leaf, logits, module
        return logits.detach().clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        with ctx.module.blaming_the_model():
            if not ctx.logits.requires_grad:
                raise no_gradient()
            (towards,) = torch.autograd.grad(ctx.logits, ctx.leaf, gradient, retain_graph=True)
        return towards, None

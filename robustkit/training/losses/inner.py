"""The inner maximisation of adversarial training."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from robustkit.attacks.steps import reach, steepest
from robustkit.randomness import Streams
from robustkit.threat_models import PerturbationSet

Start = Literal["uniform", "gaussian", "clean"]
STARTS: tuple[Start, ...] = ("uniform", "gaussian", "clean")

# The standard deviation of a Gaussian start, in the units of the images.
_FAINT = 0.001
# In l1, the share of values that one step moves.
_SPARSITY = 0.05


def maximise(
    model: Callable[[Tensor], Tensor],
    clean: Tensor,
    gain: Callable[[Tensor], Tensor],
    allowed: PerturbationSet,
    *,
    steps: int,
    step_size: float,
    start: Start | Tensor,
    streams: Streams,
) -> Tensor:
    """Raise a gain for a fixed number of steps; no example leaves early.

    Every row is its own problem: gains are added up, never averaged, so that neither the batch's
    size nor a neighbour moves a step. The projection is outside the differentiated graph.

    Args:
        model: The bare model, held still, or what is seen of it: from inputs to logits. It may
            look at each input in several ways and answer with as many rows.
        clean: (N, C, H, W) where the ball is centred.
        gain: Of (N, K) logits, (N,) what is raised.
        allowed: What may be changed.
        steps: For one gradient each.
        step_size: In units of the radius.
        start: `uniform` in the set, `gaussian` with standard deviation 0.001, at the `clean`
            inputs, or the points, like `clean`, at which another search has ended.
        streams: One per row.

    Returns:
        Like `clean`, inside the set, detached.
    """
    if isinstance(start, Tensor):
        point = allowed.project(clean, start)
    else:
        point = begin(clean, allowed, start=start, streams=streams)
    length = step_size * reach(allowed, clean)
    with torch.enable_grad():
        for _ in range(steps):
            variable = point.requires_grad_()
            total = gain(model(variable).float()).sum()
            (gradient,) = torch.autograd.grad(total, variable)
            point = climb(variable.detach(), gradient, clean, allowed, length=length)
    return point


@torch.no_grad()
def begin(clean: Tensor, allowed: PerturbationSet, *, start: Start, streams: Streams) -> Tensor:
    """Where the search starts: like `clean`, inside the set."""
    if start == "uniform":
        return _laid_out(allowed.sample(clean, streams=streams.fork("start")), clean)
    if start == "gaussian":
        noise = _FAINT * streams.fork("start").normal(tuple(clean.shape[1:]))
        return _laid_out(allowed.project(clean, clean + noise), clean)
    return clean.detach().clone()


@torch.no_grad()
def climb(
    point: Tensor, gradient: Tensor, clean: Tensor, allowed: PerturbationSet, *, length: float
) -> Tensor:
    """One step along the steepest direction of the set's norm, projected back."""
    direction = steepest(gradient, point, allowed, sparsity=_SPARSITY)
    return _laid_out(allowed.project(clean, direction.mul_(length).add_(point)), clean)


def _laid_out(point: Tensor, like: Tensor) -> Tensor:
    """The point in the memory layout of the clean inputs; convolutions are slow in another."""
    return point if point.stride() == like.stride() else torch.empty_like(like).copy_(point)

"""Gradients at the input, and directions in which a small step raises a linear function most."""

import math

import torch
from torch import Tensor

from robustkit.errors import DoesNotFit
from robustkit.threat_models import PerturbationSet
from robustkit.threat_models.projection import lengths, positive


def input_gradient(value: Tensor, inputs: Tensor, *, keep: bool = False) -> Tensor:
    """Like `inputs`: the gradient of a sum of values, one for each row; NaN becomes 0.

    Args:
        value: (N,) differentiable.
        inputs: (N, ...) what it depends on, row by row.
        keep: Keep the graph for another gradient.

    Raises:
        DoesNotFit: The value does not depend on the inputs by way of a graph.
    """
    gradient = None
    if value.requires_grad:
        try:
            (gradient,) = torch.autograd.grad(
                value.sum(), inputs, allow_unused=True, retain_graph=keep
            )
        except NotImplementedError as error:
            raise no_gradient() from error
    if gradient is None:
        raise no_gradient()
    # One NaN would spread over the image; a value without a slope is not stepped on.
    return gradient.nan_to_num(nan=0.0)


def no_gradient() -> DoesNotFit:
    """What is wrong with a model whose answer has no graph."""
    return DoesNotFit(
        "The model's answer carries no gradient back to its input. Use an attack that needs score "
        "or decision access only, or a model that can be differentiated."
    )


def steepest(
    gradient: Tensor, point: Tensor, allowed: PerturbationSet, *, sparsity: float
) -> Tensor:
    """The step of length one in the set's norm along which the loss rises fastest.

    Args:
        gradient: (N, C, H, W) gradient of the loss.
        point: Like `gradient`: where the step starts.
        allowed: The perturbation set; its norm and its value range count.
        sparsity: For l1, the share of values that one step moves, in (0, 1].

    Returns:
        Like `gradient`; a row without gradient stays where it is.
    """
    if allowed.norm == "linf":
        return gradient.sign()
    if allowed.norm == "l2":
        # In float64: the tiny gradient of a very confident model has a direction all the same.
        length = lengths(gradient).clamp_min(1e-300).reshape(-1, *[1] * (gradient.ndim - 1))
        return (gradient / length).to(gradient.dtype)
    return _sparse(gradient, point, allowed, sparsity)


def reach(allowed: PerturbationSet, like: Tensor) -> float:
    """The radius, or how far the value range lets an input move at all, if that is less.

    Args:
        allowed: The perturbation set.
        like: (N, C, H, W), for its size.
    """
    return min(allowed.radius, (allowed.high - allowed.low) * _length_of_ones(allowed, like))


def even_shift(allowed: PerturbationSet, like: Tensor) -> float:
    """How far all values of an input can be moved alike inside the ball.

    Args:
        allowed: The perturbation set; its radius and its norm (linf, l2 or l1) count.
        like: (N, C, H, W), for its size.
    """
    return reach(allowed, like) / _length_of_ones(allowed, like)


def _length_of_ones(allowed: PerturbationSet, like: Tensor) -> float:
    size = like.shape[1:].numel()
    return {"linf": 1.0, "l2": math.sqrt(size)}.get(allowed.norm, size)


def with_room(gradient: Tensor, point: Tensor, allowed: PerturbationSet) -> Tensor:
    """The gradient, but for values that are at the end of their range already: 0 there."""
    up = gradient.clamp_min(0).mul_(positive(allowed.high - point))
    return gradient.clamp_max(0).mul_(positive(point - allowed.low)).add_(up)


def _room(gradient: Tensor, point: Tensor, allowed: PerturbationSet) -> Tensor:
    """(N, D) how far each value can go along its gradient before it leaves the range."""
    ahead = torch.where(gradient > 0, allowed.high - point, point - allowed.low)
    return torch.where(gradient != 0, ahead, 0.0).flatten(1).clamp_min(0)


def _sparse(gradient: Tensor, point: Tensor, allowed: PerturbationSet, sparsity: float) -> Tensor:
    """Equal steps in the values with the largest gradient, among those that have room to move."""
    usable = with_room(gradient, point, allowed).flatten(1)
    count = max(1, round(usable.shape[1] * sparsity))
    chosen = usable.abs().topk(count, dim=1, sorted=False).indices
    step = torch.zeros_like(usable).scatter_(1, chosen, usable.gather(1, chosen).sign() / count)
    return step.reshape(gradient.shape)


def linear_maximum_l1(gradient: Tensor, point: Tensor, allowed: PerturbationSet) -> Tensor:
    """The change inside the l1 ball and the value range under which a linear loss rises most.

    Values are moved as far as they can go, largest gradient first, until the radius is spent.

    Args:
        gradient: (N, C, H, W) gradient of the loss.
        point: Like `gradient`: the clean inputs.
        allowed: An l1 ball.

    Returns:
        Like `gradient`.
    """
    room = _room(gradient, point, allowed).double()
    order = gradient.flatten(1).abs().argsort(dim=1, descending=True, stable=True)
    used = room.gather(1, order).cumsum(1)
    left = (allowed.radius - (used - room.gather(1, order))).clamp_min(0)
    spent = room.gather(1, order).minimum(left)
    change = torch.zeros_like(room).scatter_(1, order, spent) * gradient.flatten(1).sign()
    return change.to(gradient.dtype).reshape(gradient.shape)

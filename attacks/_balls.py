"""Balls whose radius differs from row to row."""

import torch
from torch import Tensor

from robustkit.attacks.steps import with_room
from robustkit.threat_models import PerturbationSet
from robustkit.threat_models.projection import lengths, project_l1, shifted


def columns(values: Tensor, like: Tensor) -> Tensor:
    """(N,) values in the shape (N, 1, ...) that is broadcast over the rows of `like`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def project(clean: Tensor, changed: Tensor, radius: Tensor, allowed: PerturbationSet) -> Tensor:
    """Bring each row into a ball of its own around the clean image, and into the value range.

    As `LpBall.project` does it for one radius.

    Args:
        clean: (N, C, H, W) the centres.
        changed: Like `clean`.
        radius: (N,) float64, finite.
        allowed: Its norm (linf, l2 or l1) and its value range count, its radius does not.

    Returns:
        Like `clean`.
    """
    if allowed.norm == "linf":
        near = columns(radius, clean).to(clean.dtype)
        return changed.clamp(allowed.low, allowed.high).clamp_(clean - near, clean + near)
    if allowed.norm == "l2":
        change = changed - clean
        factor = (radius / lengths(change).clamp_min(1e-30)).clamp_max(1.0).to(clean.dtype)
        return change.mul_(columns(factor, clean)).add_(clean).clamp_(allowed.low, allowed.high)
    room = (allowed.low - clean, allowed.high - clean)
    change = project_l1(changed - clean, radius, lowest=room[0], highest=room[1])
    return shifted(clean, change).clamp_(allowed.low, allowed.high)


def sparse_step(
    gradient: Tensor, point: Tensor, density: Tensor, allowed: PerturbationSet
) -> Tensor:
    """A step of l1 length one: equal moves of the values with the largest gradients.

    Args:
        gradient: (N, C, H, W) gradient of the loss.
        point: Like `gradient`: where the step starts. Values at the end of their range stay.
        density: (N,) the share of each row's values that are moved; at least one is.
        allowed: Its value range counts.

    Returns:
        Like `gradient`; a row without gradient stays where it is.
    """
    usable = with_room(gradient, point, allowed).flatten(1)
    size = usable.shape[1]
    count = (density * size).to(torch.int64).clamp(1, size)
    wanted = usable.abs()
    largest = wanted.topk(int(count.max()), dim=1).values
    least = largest.gather(1, count[:, None] - 1)
    moves = usable.sign().mul_(wanted >= least)
    return (moves / moves.abs().sum(1, keepdim=True).clamp_min(1)).reshape(gradient.shape)

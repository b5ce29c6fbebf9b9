"""Projections of changes onto Lp balls, each row by itself."""

import torch
from torch import Tensor


def project_l2(change: Tensor, radius: float) -> Tensor:
    """Scale each (N, ...) row down to a Euclidean length of at most `radius`."""
    factor = (radius / lengths(change).clamp_min(1e-30)).clamp_max(1.0).to(change.dtype)
    return change * factor.reshape(-1, *[1] * (change.ndim - 1))


def lengths(rows: Tensor) -> Tensor:
    """(N,) float64 Euclidean lengths: the order of addition cannot show in a float32 result."""
    length: Tensor = torch.linalg.vector_norm(rows.flatten(1), dim=1, dtype=torch.float64)
    return length


def project_l0(change: Tensor, radius: float) -> Tensor:
    """Keep the `radius` pixels of each (N, C, H, W) row that changed most, undo the others."""
    pixels = change.square().sum(1).flatten(1)
    keep = min(int(min(radius, pixels.shape[1])), pixels.shape[1])
    largest = pixels.topk(keep, dim=1).indices
    mask = torch.zeros_like(pixels, dtype=torch.bool).scatter_(1, largest, value=True)
    return change * mask.reshape(len(change), 1, *change.shape[2:])


def project_l1(change: Tensor, radius: float, *, lowest: Tensor, highest: Tensor) -> Tensor:
    """Project each row onto the l1 ball and the box [lowest, highest] together, exactly.

    The solution is sign(u) * clamp(|u| - t, 0, room) with the smallest t >= 0 that meets the
    radius, where `room` is how far the box lets a coordinate go in the direction of u. The l1
    length is piecewise linear and falling in t, with kinks at |u| and |u| - room: sort them, find
    the segment, solve it. Computed in float64.

    Args:
        change: (N, ...) the change u to project.
        radius: The largest l1 length, >= 0.
        lowest: Like `change`: the smallest allowed change, <= 0.
        highest: Like `change`: the largest allowed change, >= 0.

    Returns:
        Like `change`, in float64.

    Reference:
        Croce, Hein: Mind the box: l1-APGD for sparse adversarial attacks on image classifiers. ICML
        2021.
    """
    size = change.flatten(1).double()
    wanted = size.abs()
    room = torch.where(change > 0, highest, -lowest).flatten(1).double().clamp_min(0)
    kinks = torch.cat([wanted, wanted - room], dim=1)
    # Going down from t = infinity, the length grows with slope 1 from |u| on until |u| - room.
    slopes = torch.cat([torch.ones_like(wanted), -torch.ones_like(room)], dim=1)
    kinks, order = kinks.sort(dim=1, descending=True)
    slopes = slopes.gather(1, order).cumsum(1)
    steps = kinks[:, :-1] - kinks[:, 1:]
    lengths = torch.cat([torch.zeros_like(kinks[:, :1]), (slopes[:, :-1] * steps).cumsum(1)], dim=1)
    segment = (
        torch.searchsorted(lengths, torch.full_like(kinks[:, :1], radius), right=True) - 1
    ).clamp_min(0)
    slope = slopes.gather(1, segment).clamp_min(1)
    threshold = kinks.gather(1, segment) - (radius - lengths.gather(1, segment)) / slope
    length = wanted.minimum(room).sum(1, keepdim=True)
    threshold = torch.where(length <= radius, torch.zeros_like(threshold), threshold).clamp_min(0)
    projected = (wanted - threshold).clamp_min(0).minimum(room) * size.sign()
    return projected.reshape(change.shape)


def shifted(clean: Tensor, change: Tensor) -> Tensor:
    """`clean + change` in the type of `clean`, rounded so that no value changes more than asked.

    Rounding to nearest adds up over thousands of small changes and would leave an l1 ball.
    """
    point = (clean + change).to(clean.dtype)
    too_far = (point.double() - clean.double()).abs() > change.abs()
    return torch.where(too_far, point.nextafter(clean), point)

"""Projections of changes onto Lp balls, each row by itself."""

import torch
from torch import Tensor

# Steps after which a bracket cannot become smaller in float64.
_HALVINGS = 100


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


def project_l1(
    change: Tensor, radius: float | Tensor, *, lowest: Tensor, highest: Tensor
) -> Tensor:
    """Project each row onto the l1 ball and the box [lowest, highest] together, exactly.

    The solution is sign(u) * clamp(|u| - t, 0, room) with the smallest t >= 0 that meets the
    radius, where `room` is how far the box lets a coordinate go in the direction of u. Computed in
    float64.

    Args:
        change: (N, ...) the change u to project.
        radius: The largest l1 length, >= 0, of all rows or (N,) of each.
        lowest: Like `change`: the smallest allowed change, <= 0.
        highest: Like `change`: the largest allowed change, >= 0.

    Returns:
        Like `change`, in float64.

    Reference:
        Croce, Hein: Mind the box: l1-APGD for sparse adversarial attacks on image classifiers. ICML
        2021.
    """
    side = torch.ones_like(change).copysign_(change)
    room = (side * highest).maximum(side * lowest).flatten(1).clamp_min_(0).double()
    wanted = change.flatten(1).abs().double()
    most = torch.as_tensor(radius, dtype=room.dtype, device=room.device).reshape(-1, 1)
    size = wanted.sub_(_threshold(wanted, room, most)).clamp_min_(0).minimum(room)
    return size.reshape(change.shape).copysign_(change)


def _threshold(wanted: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    """(N, 1) the smallest t >= 0 at which clamp(wanted - t, 0, room) adds up to at most `radius`.

    The sum is piecewise linear and falling in t: Newton's steps end in the right piece, and
    bisection keeps them inside the bracket. Each row stops by itself.
    """
    low = torch.zeros_like(wanted[:, :1])
    high = wanted.amax(1, keepdim=True)
    point = low
    rounding = 4 * torch.finfo(wanted.dtype).eps * (wanted.sum(1, keepdim=True) + radius)
    unsettled = torch.ones_like(low, dtype=torch.bool)
    for _ in range(_HALVINGS):
        left = (wanted - point).clamp_min_(0)
        excess = left.minimum(room).sum(1, keepdim=True) - radius
        # Without a threshold, less than the radius is well.
        unsettled &= (excess > rounding) | ((excess < -rounding) & (point > 0))
        if not bool(unsettled.any()):
            break
        low = torch.where(excess > 0, point, low)
        high = torch.where(excess > 0, high, point)
        # Values between 0 and their room, counted.
        slope = positive(left.minimum(room - left)).sum(1, keepdim=True)
        newton = point + excess / slope.clamp_min(1)
        inside = (slope > 0) & (newton > low) & (newton < high)
        point = torch.where(unsettled, torch.where(inside, newton, (low + high) / 2), point)
    return point


def shifted(clean: Tensor, change: Tensor) -> Tensor:
    """`clean + change` in the type of `clean`, rounded so that no value changes more than asked.

    Rounding to nearest adds up over thousands of small changes and would leave an l1 ball.
    """
    point = (clean + change).to(clean.dtype)
    too_far = positive(point.double().sub_(clean).abs_().sub_(change.abs())).to(point.dtype)
    # The difference of neighbours is exact.
    return point.nextafter(clean).sub_(point).mul_(too_far).add_(point)


def positive(values: Tensor) -> Tensor:
    """Like `values`: 1 where they are positive, else 0; in a fraction of the time of a mask."""
    return values.sign().clamp_min_(0)

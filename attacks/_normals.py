"""Estimating which way a boundary faces from the labels of random steps."""

import torch
from torch import Tensor

from robustkit.attacks._boundary import Hunt, Slope, columns, smooth_noise

# Questions that are kept back for the search along the boundary after a round of noise.
_SEARCH = 14


def look_around(
    hunt: Hunt, rows: Tensor, counts: Tensor, drawn: Tensor, *, scale: Tensor, reduction: float
) -> Tensor:
    """Random steps around the points of victims, and the direction that their labels speak for.

    Args:
        hunt: The account.
        rows: (M,) victims.
        counts: (M,) int64, how many steps each takes.
        drawn: (N,) int64, how many directions each victim has drawn so far; brought up to date.
        scale: (M,) float64, what a direction of normal coefficients is multiplied with.
        reduction: Steps use only the lowest 1 / `reduction` of the frequencies per axis.

    Returns:
        (M, C, H, W) float64 directions of any length.
    """
    points = hunt.point[rows]
    shape = tuple(points.shape[1:])
    streams = hunt.streams.fork("noise")
    length = columns(scale).to(points.dtype)
    slope = Slope.flat(points)
    for places, numbers in hunt.packed(rows, counts):
        payers = rows[places]
        noise = smooth_noise(
            streams.take(payers), shape, reduction, draw=drawn[payers] + numbers, width=hunt.width
        )
        tried = hunt.boxed(points[places] + length[places] * noise)
        won = hunt.try_out(tried, payers)
        # What was really tried: the value range may have cut the step.
        slope.add(places, (tried - points[places]) / length[places], won)
    drawn[rows] += counts
    return slope.direction()


def share(left: Tensor, wanted: int) -> Tensor:
    """(M,) how many questions go into noise; what would not pay another round goes there too.

    Args:
        left: (M,) what each may still ask.
        wanted: What a full round takes.
    """
    rest = left - wanted - _SEARCH
    last = (left - _SEARCH).maximum(left // 2)
    return torch.where(rest > wanted // 2, wanted, last)

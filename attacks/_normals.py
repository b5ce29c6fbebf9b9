"""Estimating which way a boundary faces from the labels of random steps."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustkit.attacks._boundary import Hunt, Question, Steps, columns
from robustkit.attacks._dct import smooth_noise
from robustkit.randomness import Streams

# Questions that are kept back for the search along the boundary after a round of noise.
_SEARCH = 14
# Added to a number and subtracted again this leaves a multiple of 2 ** -32. Sums of less than 2 **
# 21 are then exact in float64, and do not depend on their order, on any device.
_ROUNDING = 1.5 * 2.0**20

# Random directions: called with places among the victims, their streams and the numbers of draws.
Noise = Callable[[Tensor, Streams, Tensor], Tensor]


@dataclass(slots=True)
class Slope:
    """Adds up random directions by what was answered there, exactly and in any order.

    Attributes:
        sums: (2 M, C, H, W) float64: for each the sum of the directions that did not reach the
            objective, and of those that did.
        counts: (2 M,) int64, how many directions.
    """

    sums: Tensor
    counts: Tensor

    @classmethod
    def flat(cls, like: Tensor) -> "Slope":
        """Nothing seen yet; `like` is (M, C, H, W)."""
        sums = like.new_zeros(2 * len(like), *like.shape[1:], dtype=torch.float64)
        return cls(sums, torch.zeros(len(sums), dtype=torch.int64, device=like.device))

    def add(self, places: Tensor, directions: Tensor, won: Tensor) -> None:
        """Take in (K, C, H, W) directions and their (K,) bool answers at `places`."""
        where = 2 * places + won
        rounded = directions.to(torch.float64, copy=True).add_(_ROUNDING).sub_(_ROUNDING)
        self.sums.index_add_(0, where, rounded)
        self.counts.index_add_(0, where, torch.ones_like(where))

    def direction(self) -> Tensor:
        """(M, C, H, W) float64: towards the objective, answers weighed against their average.

        Where all answers are the same, the average direction, or away from it.
        """
        lost, won = self.sums[::2], self.sums[1::2]
        failures, successes = self.counts[::2], self.counts[1::2]
        share = columns(successes.double() / (failures + successes).clamp_min(1))
        same = columns((failures == 0) | (successes == 0))
        return torch.where(same, won - lost, (1 - share) * won - share * lost)


def look_around(
    hunt: Hunt, rows: Tensor, counts: Tensor, drawn: Tensor, *, scale: Tensor, noise: Noise
) -> Steps[Tensor]:
    """Random steps around the points of victims, and the direction that their labels speak for.

    Args:
        hunt: The account.
        rows: (M,) victims.
        counts: (M,) int64, how many steps each takes.
        drawn: (N,) int64, how many directions each victim has drawn so far; brought up to date.
        scale: (M,) float64, what a direction is multiplied with.
        noise: Makes directions.

    Returns:
        (M, C, H, W) float64 directions of any length.
    """
    points = hunt.point[rows]
    length = columns(scale).to(points.dtype)
    streams = hunt.streams.fork("noise")
    slope = Slope.flat(points)
    places = torch.arange(len(rows), device=rows.device).repeat_interleave(counts)
    payers = rows[places]
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    draws = drawn[payers] + torch.arange(len(places), device=rows.device) - first

    def steps(part: slice) -> Tensor:
        here = places[part]
        directions = noise(here, streams.take(payers[part]), draws[part])
        return hunt.boxed(torch.addcmul(points[here], length[here], directions))

    def learn(part: slice, tried: Tensor, won: Tensor) -> None:
        here = places[part]
        # What was really tried: the value range may have cut the step.
        slope.add(here, (tried - points[here]).div_(length[here]), won)

    yield Question(payers, steps, learn, patient=True)
    drawn[rows] += counts
    return slope.direction()


def smooth(hunt: Hunt, reduction: float) -> Noise:
    """Directions of normal coefficients of the lowest 1 / `reduction` of the frequencies."""
    shape = tuple(hunt.clean.shape[1:])

    def noise(_: Tensor, streams: Streams, draw: Tensor) -> Tensor:
        return smooth_noise(streams, shape, reduction, draw=draw, width=hunt.width)

    return noise


def share(left: Tensor, wanted: int) -> Tensor:
    """(M,) how many questions go into noise; what would not pay another round goes there too.

    Args:
        left: (M,) what each may still ask.
        wanted: What a full round takes.
    """
    rest = left - wanted - _SEARCH
    last = (left - _SEARCH).maximum(left // 2)
    return torch.where(rest > wanted // 2, wanted, last)

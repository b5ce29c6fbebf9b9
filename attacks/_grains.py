"""Kinds of random steps: fine or coarse, grey or coloured."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robustkit.attacks._boundary import columns
from robustkit.attacks._dct import dimensions, mixed_noise
from robustkit.randomness import Streams


@dataclass(frozen=True, slots=True)
class Grain:
    """One kind of random step.

    Attributes:
        reduction: It uses only the lowest 1 / `reduction` of the frequencies along each axis.
        common: Share of its variance that all channels have in common.
    """

    reduction: float
    common: float


# Networks mostly follow what changes all channels alike.
_GREY = 0.75
_REDUCTIONS = (4.0, 2.0, 1.0)


def grains(reduction: float | None, common: float | None, *, channels: int) -> tuple[Grain, ...]:
    """The kinds of steps that may be chosen from, coarse ones first.

    Args:
        reduction: The only one; None for 4, 2 and 1.
        common: The only one; None for grey steps, and coloured ones of the finest grain.
        channels: With one channel there is nothing in common.

    Example:
        >>> [(grain.reduction, grain.common) for grain in grains(None, None, channels=3)]
        [(4.0, 0.75), (2.0, 0.75), (1.0, 0.75), (1.0, 0.0)]
    """
    sizes = _REDUCTIONS if reduction is None else (reduction,)
    if channels == 1:
        return tuple(Grain(size, 0.0) for size in sizes)
    if common is not None:
        return tuple(Grain(size, common) for size in sizes)
    return (*(Grain(size, _GREY) for size in sizes), Grain(sizes[-1], 0.0))


def noise_of(
    choice: tuple[Grain, ...],
    kinds: Tensor,
    streams: Streams,
    shape: tuple[int, ...],
    *,
    draw: Tensor,
    width: int,
) -> Tensor:
    """(K, C, H, W) float32 random directions of typical length one.

    Args:
        choice: Kinds of steps.
        kinds: (K,) int64, which of them each is.
        streams: One for each.
        shape: Of an image.
        draw: (K,) int64, the how manieth direction it is of its stream.
        width: As for `mixed_noise`.
    """
    reductions = [grain.reduction for grain in choice]
    noise = mixed_noise(streams, shape, reductions, kinds, draw=draw, width=width)
    # Every channel keeps its variance.
    size = [dimensions(shape, reduction) ** 0.5 for reduction in reductions]
    own = [math.sqrt(1 - grain.common) for grain in choice]
    grey = [math.sqrt(1 + (shape[0] - 1) * grain.common) for grain in choice]
    factor = torch.tensor([own, grey]).div_(torch.tensor(size)).to(noise)[:, kinds]
    common = noise.mean(1, keepdim=True) * columns(factor[1] - factor[0])
    return noise.mul_(columns(factor[0])).add_(common)

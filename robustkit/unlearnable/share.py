"""Which examples are changed: an exact share, taken evenly from the classes."""

import torch
from torch import Tensor

from robustkit.errors import BadInput
from robustkit.randomness import Streams


def stratified(labels: Tensor, share: float, streams: Streams) -> Tensor:
    """Choose a share of the examples, the same of every class up to rounding.

    The total is exact: the nearest whole number to share * N. Every class gives the whole part of
    its own share; what is left over goes to the classes with the largest remainders. Within a class
    the streams decide, so that who cannot draw them cannot tell which examples were chosen.

    Args:
        labels: (N,) int64.
        share: In [0, 1].
        streams: One per example.

    Returns:
        (N,) bool, where `labels` lies.

    Raises:
        BadInput: A share outside [0, 1].

    Example:
        >>> streams = Streams.of(seed=0, ids=torch.arange(10))
        >>> stratified(torch.arange(10) % 2, 0.4, streams).long().view(5, 2).sum(0).tolist()
        [2, 2]
    """
    if not 0 <= share <= 1:
        raise BadInput(f"The share of changed examples is {share}; it must lie in [0, 1].")
    if share == 1:
        return torch.ones_like(labels, dtype=torch.bool)
    counts = labels.bincount()
    wanted = counts.double() * share
    quota = wanted.floor().long()
    left = round(share * len(labels)) - int(quota.sum())
    quota[(wanted - quota).argsort(descending=True, stable=True)[:left]] += 1
    # Sorted by class, at random within each: an example's turn is its place in its class.
    random = streams.fork("share").bits(()).to(labels.device)
    order = random.argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]
    first = counts.cumsum(0) - counts
    turn = torch.empty_like(order)
    turn[order] = torch.arange(len(labels), device=labels.device) - first[labels[order]]
    chosen: Tensor = turn < quota[labels]
    return chosen

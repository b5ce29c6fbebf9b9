"""Timing two things side by side, so that a noisy machine disturbs both alike."""

import time
from collections.abc import Callable
from statistics import median


def seconds(function: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def ratio(
    ours: Callable[[], object], peer: Callable[[], object], *, rounds: int
) -> tuple[float, float, float]:
    """Median time of both, taken in turns, and the median of the ratios of neighbouring pairs."""
    pairs = [(seconds(ours), seconds(peer)) for _ in range(rounds)]
    return (
        median(mine for mine, _ in pairs),
        median(theirs for _, theirs in pairs),
        median(mine / theirs for mine, theirs in pairs),
    )

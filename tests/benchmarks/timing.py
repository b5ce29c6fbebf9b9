"""Timing two things side by side, so that a noisy machine disturbs both alike."""

import time
from collections.abc import Callable
from statistics import median


def seconds(
    function: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> float:
    """Time of one call, by default on the wall."""
    start = clock()
    function()
    return clock() - start


def ratio(
    ours: Callable[[], object],
    peer: Callable[[], object],
    *,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, float, float]:
    """Median time of both, taken in turns, and the median of the ratios of neighbouring pairs.

    With `time.process_time` as the clock, of one thread, other work on the machine disturbs less.
    """
    pairs = [(seconds(ours, clock), seconds(peer, clock)) for _ in range(rounds)]
    return (
        median(mine for mine, _ in pairs),
        median(theirs for _, theirs in pairs),
        median(mine / theirs for mine, theirs in pairs),
    )

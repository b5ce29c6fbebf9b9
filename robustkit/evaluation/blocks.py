"""Examples in blocks of one width, and how long they take."""

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from robustkit.attacks.queued import Found
from robustkit.attacks.rows import join_rows, take_rows

# With fewer rows, a pass costs nearly as much as with so many.
_NARROWEST = 8


def parts(rows: Tensor, width: int) -> list[Tensor]:
    """Rows in blocks of `width`, the last one smaller."""
    return [rows[start : start + width] for start in range(0, len(rows), width)]


def narrow(width: int, share: int = 4) -> int:
    """Rows in which the model is run where few examples are awaited: wide batches would be padding.

    How many there are decides nothing: an example must fare as it would among others.

    Args:
        width: The rows of wide batches.
        share: How many narrow batches are as wide.
    """
    return max(width // share, min(width, _NARROWEST))


def without(rows: Tensor, finished: list[int]) -> Tensor:
    """The rows that are not finished."""
    return rows[~torch.isin(rows, torch.tensor(finished, dtype=torch.int64))]


def gathered(stream: Iterator[Found], width: int) -> Iterator[Found]:
    """The same finds in groups of exactly `width`, the last one smaller."""
    waiting: Found | None = None
    for found in stream:
        waiting = found if waiting is None else join_rows([waiting, found])
        while len(waiting.index) >= width:
            yield _cut(waiting, slice(width))
            waiting = _cut(waiting, slice(width, None))
    if waiting is not None and len(waiting.index):
        yield waiting


def _cut(found: Found, rows: slice) -> Found:
    return take_rows(found, torch.arange(len(found.index), device=found.index.device)[rows])


class Clock:
    """Wall time, lap by lap."""

    def __init__(self) -> None:
        """Begins the first lap."""
        self._last = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the lap before."""
        now = time.perf_counter()
        lap, self._last = now - self._last, now
        return lap

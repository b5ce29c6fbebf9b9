"""Running a model at one fixed batch width, and counting who asked for what.

A convolution's result for an image can depend in its last bits on how many images share the batch,
but not on which. Padding every chunk to one width therefore makes results independent of order,
neighbours, shard and resume.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustkit.errors import DeviceLost


@dataclass(frozen=True, slots=True)
class Passes:
    """What a model was asked to do.

    Attributes:
        forward: Examples passed forward.
        backward: Examples whose gradient was taken.
        rows_run: Rows the hardware worked on, padding included.
    """

    forward: int = 0
    backward: int = 0
    rows_run: int = 0

    def __add__(self, other: "Passes") -> "Passes":
        """The sum of two bills."""
        return Passes(
            self.forward + other.forward,
            self.backward + other.backward,
            self.rows_run + other.rows_run,
        )


class Ledger:
    """Who has spent what: forward and backward passes per example.

    Attributes:
        forward: (N,) int64, forward passes charged to each example.
        backward: (N,) int64, backward passes likewise.
        beside: (N,) int64, forward passes of stand-ins of the model, which are no queries.
        rows_run: Rows the hardware worked on.
        attributed: False once a call could not be charged to single examples.
    """

    def __init__(self, examples: int, device: torch.device | str = "cpu") -> None:
        """Args: how many examples can be charged, and where the counters live."""
        self.forward = torch.zeros(examples, dtype=torch.int64, device=device)
        self.backward = torch.zeros_like(self.forward)
        self.beside = torch.zeros_like(self.forward)
        self.rows_run = 0
        self.attributed = True
        self._unclaimed = [0, 0]

    def charge_forward(self, payers: Tensor | int) -> None:
        """Charge one forward pass for every entry of `payers`; -1 is padding and pays nothing.

        An integer charges so many passes to nobody in particular.
        """
        self._charge(self.forward, 0, payers)

    def charge_backward(self, payers: Tensor | int) -> None:
        """Charge backward passes likewise."""
        self._charge(self.backward, 1, payers)

    def charge_beside(self, payers: Tensor | int) -> None:
        """Charge forward passes of a stand-in likewise."""
        self._charge(self.beside, 0, payers)

    def _charge(self, account: Tensor, kind: int, payers: Tensor | int) -> None:
        if isinstance(payers, int):
            self._unclaimed[kind] += payers
            self.attributed = False
        else:
            account.index_add_(0, payers.clamp_min(0), (payers >= 0).to(account.dtype))

    @property
    def passes(self) -> Passes:
        """The sum over all examples and unattributed calls; reads the counters from the device."""
        forward, backward = self._unclaimed
        return Passes(
            int((self.forward + self.beside).sum()) + forward,
            int(self.backward.sum()) + backward,
            self.rows_run,
        )


def chunks(inputs: Tensor, width: int | None) -> Iterator[tuple[Tensor, slice]]:
    """Cut (N, ...) inputs, N > 0, into chunks of exactly `width` rows, the last one padded.

    Padding repeats the last row without its gradient. `width` None gives all rows as one chunk.

    Yields:
        (chunk, rows): the chunk's first rows are `inputs[rows]`.
    """
    step = width or len(inputs)
    for start in range(0, len(inputs), step):
        rows = slice(start, min(start + step, len(inputs)))
        yield padded(inputs[rows], step), rows


def padded(rows: Tensor, width: int) -> Tensor:
    """Rows repeated at the end until there are `width`."""
    missing = width - len(rows)
    if missing <= 0:
        return rows
    return torch.cat([rows, rows[-1:].detach().expand(missing, *rows.shape[1:])])


def watched(inputs: Tensor, on_backward: Callable[[], None]) -> Tensor:
    """The same inputs; `on_backward` is called each time a gradient flows back through them."""
    if not inputs.requires_grad:
        return inputs
    same: Tensor = _Watched.apply(inputs, on_backward)
    return same


class _Watched(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, tell: Callable[[], None]) -> Tensor:  # noqa: ANN401
        ctx.tell = tell
        return inputs.view_as(inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        ctx.tell()
        return gradient, None


def widest(run: Callable[[int], None], width: int) -> int:
    """The largest of width, width/2, width/4, ... at which `run` does not run out of memory.

    Raises:
        DeviceLost: Not even one row fits.
    """
    while width:
        try:
            run(width)
        except torch.OutOfMemoryError:
            width //= 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        else:
            return width
    raise DeviceLost(
        "One example does not fit into the device's memory. Use --device cpu or a smaller model."
    )

"""Batches of examples under attack, and how rows of their tensors are taken and joined."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from robustkit.errors import ShapeMismatch
from robustkit.randomness import Streams
from robustkit.threat_models import Objective, PerturbationSet

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rows:
    """A batch of examples under attack; all tensors are row-aligned.

    Attributes:
        clean: (N, C, H, W) the inputs before the attack.
        objective: What is wanted of each.
        streams: One random stream per row, already on the lane of the attempt.
        index: (N,) int64, the row's victim in the view; -1 for padding.
        attempt: (N,) int64, which restart or target this is, from 0.
        allowed: What may be changed.
        aims: (N, A) int64, wrong classes worth aiming at, best first; None where nobody has looked.
        start: Like `clean`: where another search has ended, from which to go on; None for a new
            one.
    """

    clean: Tensor
    objective: Objective
    streams: Streams
    index: Tensor
    attempt: Tensor
    allowed: PerturbationSet
    aims: Tensor | None = None
    start: Tensor | None = None

    @classmethod
    def first(
        cls,
        clean: Tensor,
        objective: Objective,
        streams: Streams,
        index: Tensor,
        allowed: PerturbationSet,
    ) -> "Rows":
        """The first attempt at each example."""
        return cls(clean, objective, streams.on_lanes(0), index, torch.zeros_like(index), allowed)

    def begin_at(self, point: Tensor) -> Tensor:
        """Like `clean`: where the attempt begins: at `point`, or where it goes on in the first."""
        if self.start is None:
            return point
        first = (self.attempt == 0).reshape(-1, *[1] * (point.ndim - 1))
        return torch.where(first, self.allowed.project(self.clean, self.start), point)

    def next_attempt(self) -> "Rows":
        """The next attempt at each example, with fresh randomness."""
        attempt = self.attempt + 1
        return dataclasses.replace(self, attempt=attempt, streams=self.streams.on_lanes(attempt))


def take_rows(value: T, rows: Tensor) -> T:
    """Some rows of a dataclass of row-aligned tensors, nested dataclasses included."""
    if isinstance(value, Tensor):
        return value[rows]  # type: ignore[return-value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        taken = {name: take_rows(field, rows) for name, field in fields.items()}
        if any(taken[name] is not fields[name] for name in fields):
            return dataclasses.replace(value, **taken)
    return value


def join_rows(values: Sequence[T]) -> T:
    """Dataclasses of row-aligned tensors one after the other; other fields are the first's."""
    first = values[0]
    if len(values) == 1:
        return first
    if isinstance(first, Tensor):
        return torch.cat(values)  # type: ignore[return-value,arg-type]
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        names = [field.name for field in dataclasses.fields(first)]
        joined = {name: join_rows([getattr(value, name) for value in values]) for name in names}
        if any(joined[name] is not getattr(first, name) for name in names):
            return dataclasses.replace(first, **joined)
    return first


def check_rows(inputs: Tensor, objective: Objective, streams: Streams) -> None:
    """Refuse inputs, objective and streams that do not belong together."""
    if inputs.ndim != 4 or inputs.dtype != torch.float32:
        raise ShapeMismatch(
            f"Inputs are (N, C, H, W) float32, not {tuple(inputs.shape)} {inputs.dtype}."
        )
    if not len(inputs) == len(objective) == len(streams):
        raise ShapeMismatch(
            f"{len(inputs)} inputs came with {len(objective)} labels and {len(streams)} streams."
        )

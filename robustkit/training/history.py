"""What is told of a training while it runs: to a watcher, to a file, to TensorBoard."""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from robustkit.errors import MissingExtra
from robustkit.files import write_atomically

Record = Mapping[str, Any]


class Progress(Protocol):
    """Told how a training goes on."""

    def begin(self, *, epochs: int, steps: int, epoch: int, step: int) -> None:
        """It begins, or goes on at some step of some epoch."""
        ...

    def step(self) -> None:
        """One more step is done."""
        ...

    def epoch(self, record: Record) -> None:
        """One more epoch is done; this is what goes into the history."""
        ...


class Silent:
    """Progress that nobody watches."""

    def begin(self, *, epochs: int, steps: int, epoch: int, step: int) -> None:
        """Nothing."""

    def step(self) -> None:
        """Nothing."""

    def epoch(self, record: Record) -> None:
        """Nothing."""


def write_history(folder: Path, history: Sequence[Record]) -> None:
    """Write `history.jsonl`: one JSON object per epoch. The file is replaced at once.

    Raises:
        BadInput, CannotWrite: See `write_atomically`.
    """
    lines = "".join(json.dumps(dict(record)) + "\n" for record in history)
    write_atomically(folder / "history.jsonl", lines)


class NoBoard:
    """Where nobody wants a TensorBoard log."""

    def epoch(self, record: Record) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Board:
    """A TensorBoard log of every number in the history."""

    def __init__(self, folder: Path, *, after: int) -> None:
        """Open the log.

        Args:
            folder: Made if it is not there.
            after: Epochs already done; what an earlier run wrote of later ones is hidden.

        Raises:
            MissingExtra: TensorBoard is not installed.
        """
        if find_spec("tensorboard") is None:
            raise MissingExtra(
                "Logs for TensorBoard need the package 'tensorboard', which is not installed. "
                "Install it with: pip install 'robustkit[tensorboard]'"
            )
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=after)

    def epoch(self, record: Record) -> None:
        """Log the numbers of one epoch."""
        for name, value in record.items():
            if isinstance(value, int | float) and name != "epoch":
                self._writer.add_scalar(name, value, record["epoch"])

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()

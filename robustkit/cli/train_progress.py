"""How a training goes on, on stderr: a bar on a terminal, one line per epoch everywhere."""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

# In this order; a record may have others, which the history file shows.
_SHOWN = (
    ("loss", "loss", ".4f"),
    ("accuracy", "clean", ".1%"),
    ("adversarial_accuracy", "attacked", ".1%"),
    ("held_out_accuracy", "held out", ".1%"),
    ("held_out_robust_accuracy", "held out, attacked", ".1%"),
    ("guard_accuracy", "guard", ".1%"),
    ("lr", "lr", ".2g"),
    ("seconds", "s", ".0f"),
)


def line(record: Mapping[str, Any], epochs: int) -> str:
    """One epoch in one line."""
    parts = [f"{name} {record[key]:{form}}" for key, name, form in _SHOWN if key in record]
    return f"epoch {record['epoch']}/{epochs}  " + "  ".join(parts)


class Quiet:
    """Says nothing: for all processes but the first."""

    def begin(self, *, epochs: int, steps: int, epoch: int, step: int) -> None:
        """Nothing."""

    def step(self) -> None:
        """Nothing."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Nothing."""


class Lines:
    """One line per epoch."""

    def __init__(self) -> None:
        """Nothing has begun."""
        self._epochs = 0

    def begin(self, *, epochs: int, steps: int, epoch: int, step: int) -> None:
        """Keep how many epochs there are."""
        self._epochs = epochs

    def step(self) -> None:
        """Nothing."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Say how it went."""
        click.echo(line(record, self._epochs), err=True)


class Bars:
    """One line per epoch above a bar of the steps of the present one."""

    def __init__(self, progress: Progress) -> None:
        """Args: the rich display."""
        self._progress = progress
        self._task = progress.add_task("")
        self._epochs = 0

    def begin(self, *, epochs: int, steps: int, epoch: int, step: int) -> None:
        """An epoch begins."""
        self._epochs = epochs
        name = f"epoch {epoch + 1}/{epochs}"
        self._progress.reset(self._task, total=steps, completed=step, description=name)

    def step(self) -> None:
        """One step further."""
        self._progress.advance(self._task)

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Say how it went."""
        self._progress.console.print(line(record, self._epochs), markup=False, highlight=False)


@contextlib.contextmanager
def watch(*, enabled: bool) -> Iterator[Quiet | Lines | Bars]:
    """A display on stderr that fits where stderr goes."""
    if not enabled or not sys.stderr.isatty():
        yield Lines() if enabled else Quiet()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield Bars(progress)

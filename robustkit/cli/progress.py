"""How a run goes on, on stderr: a bar on a terminal, plain lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Iterator

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

# Seconds between two plain lines of one stage.
_PATIENCE = 15.0


class Lines:
    """One plain line when a stage begins, now and then while it runs, and when it ends."""

    def __init__(self) -> None:
        """Nothing has begun."""
        self._name = ""
        self._total = self._done = self._broken = 0
        self._told = 0.0

    def stage(self, name: str, total: int, done: int) -> None:
        """A stage begins."""
        self._name, self._total, self._done, self._broken = name, total, done, 0
        self._tell()

    def advance(self, done: int, broken: int) -> None:
        """Examples have left the stage."""
        self._done += done
        self._broken += broken
        if self._done >= self._total or time.monotonic() - self._told > _PATIENCE:
            self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        fallen = f", {self._broken} broken" if self._broken else ""
        click.echo(f"{self._name}: {self._done} of {self._total}{fallen}", err=True)


class Bars:
    """One bar per stage."""

    def __init__(self, progress: Progress) -> None:
        """Args: the rich display."""
        self._progress = progress
        self._broken = 0
        self._task: TaskID | None = None

    def stage(self, name: str, total: int, done: int) -> None:
        """A stage begins."""
        self._broken = 0
        self._task = self._progress.add_task(escape(name), total=total, completed=done, broken="")

    def advance(self, done: int, broken: int) -> None:
        """Examples have left the stage."""
        self._broken += broken
        if self._task is not None:
            text = f"{self._broken} broken" if self._broken else ""
            self._progress.update(self._task, advance=done, broken=text)


@contextlib.contextmanager
def watch() -> Iterator[Lines | Bars]:
    """A display on stderr that fits where stderr goes."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[broken]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield Bars(progress)

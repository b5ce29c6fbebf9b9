"""A command among several that `torchrun` started: who speaks, and how the others live on.

`torchrun` ends all processes of a machine as soon as one of them has failed. An evaluation needs no
company, and what was lost can be done later: so each process that `torchrun` knows only watches
another one that works, in a session of its own, which `torchrun` does not reach. The watcher passes
on what is meant for the worker, and waits for its neighbours before it fails with it.
"""

import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Self

import click

from robustkit.errors import BadInput

BAD_INPUT = 2
INTERRUPTED = 130
# What a watcher tells its worker: to stop, or that it is on its own from now on.
_STOP, _ALONE = b"s", b"a"
_LOOK = 0.05
# Seconds in which a neighbour that was killed is gone.
_GRACE = 2.0
# Seconds for which the first process of a machine may take to say what is wrong with the input.
_FIRST = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where this process stands among those that were started together.

    Attributes:
        rank: Its number among all.
        world: How many there are.
        local_rank: Its number on this machine.
        local_world: How many there are here.
    """

    rank: int
    world: int
    local_rank: int
    local_world: int

    @classmethod
    def here(cls) -> Self | None:
        """The place that the environment tells; None for a process by itself.

        Raises:
            BadInput: What it tells is no place.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        words = {name: os.environ.get(name) for name in names}
        if words["WORLD_SIZE"] in (None, "1"):
            return None
        try:
            rank, world = int(words["RANK"] or ""), int(words["WORLD_SIZE"] or "")
            local_rank = int(words["LOCAL_RANK"] or 0)
            local_world = int(words["LOCAL_WORLD_SIZE"] or 1)
        except ValueError as error:
            told = ", ".join(f"{name}={word}" for name, word in words.items() if word is not None)
            raise BadInput(
                f"The environment says {told}, which is no place among several processes. Start "
                "them with torchrun, or unset WORLD_SIZE."
            ) from error
        return cls(rank=rank, world=world, local_rank=local_rank, local_world=local_world)


def launched() -> bool:
    """Whether `torchrun` started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def first() -> bool:
    """Whether this process says what concerns all on its machine."""
    return not launched() or os.environ.get("LOCAL_RANK", "0") == "0"


def may_tell() -> bool:
    """Whether this process shall say what is wrong with the input, after it has waited its turn.

    The first process of a machine mostly says the same; then it ends, and so does everything here.
    Where it goes on, this process has its own trouble.
    """
    if first():
        return True
    with contextlib.suppress(KeyboardInterrupt):
        time.sleep(_FIRST)
        return True
    return False


def watched(work: Callable[[], int]) -> int:
    """Do some work, in a watched process of its own where `torchrun` started this one.

    Returns:
        The exit code.
    """
    if not launched() or not hasattr(os, "fork"):
        return work()
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    worker = os.fork()
    if worker == 0:
        os.close(writing)
        os.setsid()
        # Started in the background, `torchrun` and all below it ignore this signal.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Thread(target=_obey, args=(reading,), daemon=True).start()
        return work()
    os.close(reading)
    place = Place.here()
    if place is None:
        raise RuntimeError("Nobody has started this process as one of several.")
    return _Watcher(place, worker, writing).code()


def _obey(reading: int) -> None:
    """Stop when the watcher says so, or is gone without having said anything."""
    if os.read(reading, 1) != _ALONE:
        os.kill(os.getpid(), signal.SIGINT)


class _Watcher:
    """Waits for one worker."""

    def __init__(self, place: Place, worker: int, writing: int) -> None:
        self._place = place
        self._worker = worker
        self._writing = writing
        self._told: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._tell)

    def _tell(self, number: int, frame: FrameType | None) -> None:
        self._told = self._told or number

    def code(self) -> int:
        """Wait until the worker has ended, and nobody here is harmed by this process's end."""
        with _present(self._place) as presence:
            status = self._wait()
            presence.unlink(missing_ok=True)
            code = os.waitstatus_to_exitcode(status)
            if code < 0:
                click.echo(
                    f"Process {self._place.rank} of {self._place.world} was lost: it was ended by "
                    f"{signal.Signals(-code).name}.",
                    err=True,
                )
            if code not in (0, BAD_INPUT, INTERRUPTED):
                while self._told is None and any(_alive(path) for path in self._neighbours()):
                    time.sleep(_LOOK)
            return code if code >= 0 else 128 - code

    def _wait(self) -> int:
        passed_on = False
        while True:
            ended, status = os.waitpid(self._worker, os.WNOHANG)
            if ended:
                return status
            if self._told is not None and not passed_on:
                passed_on = True
                alone = self._told == signal.SIGTERM and not _replaced() and self._lost()
                with contextlib.suppress(BrokenPipeError):
                    os.write(self._writing, _ALONE if alone else _STOP)
            time.sleep(_LOOK)

    def _lost(self) -> bool:
        """Whether a neighbour is gone that was not told to stop."""
        end = time.monotonic() + _GRACE
        while time.monotonic() < end:
            if any(path.exists() and not _alive(path) for path in self._neighbours()):
                return True
            time.sleep(_LOOK)
        return False

    def _neighbours(self) -> list[Path]:
        numbers = range(self._place.local_world)
        return [_presence(number) for number in numbers if number != self._place.local_rank]


def _replaced() -> bool:
    """Whether `torchrun` begins anew with all processes when it has ended them."""
    begun, most = (
        os.environ.get(f"TORCHELASTIC_{name}", "0") for name in ("RESTART_COUNT", "MAX_RESTARTS")
    )
    return int(begun) < int(most)


def restarted() -> bool:
    """Whether `torchrun` has started these processes in the place of others."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def _presence(local_rank: int) -> Path:
    """The file that a watcher locks while it is there, and removes when it goes by itself."""
    name = f"robustkit-{os.getuid()}-{os.getppid()}-{local_rank}.lock"
    return Path(tempfile.gettempdir()) / name


@contextlib.contextmanager
def _present(place: Place) -> Iterator[Path]:
    path = _presence(place.local_rank)
    with _opened(path) as file:
        _lock(file)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


def _alive(path: Path) -> bool:
    try:
        with _opened(path, os.O_RDWR) as file:
            return not _lock(file)
    except FileNotFoundError:
        return False


def _opened(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> IO[bytes]:
    # Folders for temporary files are everybody's: a link there may lead anywhere.
    return os.fdopen(os.open(path, flags | os.O_NOFOLLOW, 0o600), "r+b")


def _lock(file: IO[bytes]) -> bool:
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

"""Locks on files, by which processes that share a folder keep out of each other's way.

The system gives a lock back when its holder ends, however it ends.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from robustkit.errors import BadInput


def lock(file: IO[Any], *, wait: bool = False) -> bool | None:
    """Keep other processes out until the file is closed.

    Args:
        file: The open file.
        wait: Until whoever has the lock gives it back.

    Returns:
        Whether the lock was had; None where the system or the file system has no locks.
    """
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def held(path: Path) -> bool:
    """Whether a process has the lock of a file at this moment."""
    try:
        with path.open("r+b") as file:
            return lock(file) is False
    except OSError:
        return False


@contextlib.contextmanager
def turn(path: Path) -> Iterator[None]:
    """Wait for the lock of a file, which is made if it is not there, and hold it for a while.

    Whoever has it may remove the file: those that wait then make it anew.

    Raises:
        BadInput: There are no locks here.
        OSError: The file can be neither made nor opened.
    """
    while True:
        with path.open("ab") as file:
            if lock(file, wait=True) is None:
                raise BadInput(
                    f"The file system of {str(path.parent)!r} has no locks, by which several "
                    "processes agree who writes the report. Choose another --out, or run one "
                    "process."
                )
            if _still_there(path, file):
                yield
                return


def _still_there(path: Path, file: IO[Any]) -> bool:
    """Whether the path still leads to the open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False

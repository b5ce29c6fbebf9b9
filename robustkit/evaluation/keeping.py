"""What is measured once after a run and kept in its folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from robustkit.errors import CorruptFile
from robustkit.files import write_atomically
from robustkit.report.codec import decode, encode, parse

T = TypeVar("T")


def measured_once(folder: Path | None, name: str, kind: type[T], measure: Callable[[], T]) -> T:
    """What `measure` gives, or has given in this folder before.

    A file that is damaged is measured again: nothing is lost.

    Args:
        folder: Of the run; None keeps nothing.
        name: Of the file in it.
        kind: A dataclass that `encode` can write.
        measure: Called at most once.
    """
    if folder is None:
        return measure()
    file = folder / name
    if file.exists():
        try:
            return decode(kind, parse(file.read_text(encoding="utf-8")))
        except (CorruptFile, UnicodeDecodeError):
            pass
    found = measure()
    write_atomically(file, json.dumps(encode(found)))
    return found

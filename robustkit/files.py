"""Writing a file so that it is there whole or not at all."""

import contextlib
import json
import math
import os
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from robustkit.errors import BadInput, CannotWrite, RobustkitError


def write_atomically(
    path: Path, content: bytes | str | Iterable[bytes], *, mode: int | None = None
) -> None:
    """Write a file under a temporary name beside it, then rename it.

    Readers see the old content or the new, never a part; after a crash the new content is on the
    disk or the old one is. Folders on the way are made.

    Args:
        path: Where to write; what is there is replaced.
        content: Text is written as UTF-8, pieces one after the other.
        mode: Permissions that the file has from the first byte on, such as 0o600; by default the
            process's own.

    Raises:
        BadInput: Writing there is not allowed, or something else is in the way.
        CannotWrite: The disk is full or failed; what was there before is intact.
    """
    if isinstance(content, str):
        content = content.encode()
    pieces = (content,) if isinstance(content, bytes) else content
    temporary = _beside(path)
    with _telling(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if mode is not None:
                temporary.touch(mode, exist_ok=False)
            _write(temporary, pieces)
            temporary.replace(path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_atomically(path: Path) -> Iterator[Path]:
    """Fill a folder under a temporary name beside it; if nothing fails it is renamed.

    Args:
        path: Where it shall be; nothing is there yet, or an empty folder.

    Yields:
        Where to write: a folder that is there and empty.

    Raises:
        BadInput: Writing there is not allowed, or something is there.
        CannotWrite: The disk is full or failed. As after any other error, nothing is left.
    """
    path = path.resolve()
    temporary = _beside(path)
    with _telling(path):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextlib.contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Say in our words what the system says about writing a path."""
    try:
        yield
    except RobustkitError:
        # What makes the pieces may fail too, and some of our errors are OSErrors.
        raise
    except (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise BadInput(
            f"{str(path)!r} cannot be written: {error.strerror}. Choose a folder that you may "
            "write to."
        ) from error
    except OSError as error:
        raise CannotWrite(
            f"Writing {str(path)!r} failed: {error.strerror or error}. What was there before is "
            "intact; free some space or choose another folder, and try again."
        ) from error


def _write(path: Path, pieces: Iterable[bytes]) -> None:
    with path.open("wb") as stream:
        for piece in pieces:
            stream.write(piece)
        stream.flush()
        os.fsync(stream.fileno())


@dataclass(frozen=True, slots=True)
class StreamedTensor:
    """A tensor whose bytes come piece by piece.

    Attributes:
        dtype: As safetensors calls it: `F32`, `I64`, `U8`.
        shape: Its shape.
        pieces: Its little-endian bytes in row-major order.
    """

    dtype: str
    shape: tuple[int, ...]
    pieces: Iterable[bytes]

    @property
    def size(self) -> int:
        """How many bytes."""
        return math.prod(self.shape) * {"F32": 4, "I64": 8, "U8": 1}[self.dtype]


def safetensors(tensors: Mapping[str, StreamedTensor]) -> Iterator[bytes]:
    """The bytes of a safetensors file; the library's writers hold all of it in memory."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        offsets = [end, end := end + tensor.size]
        shape = list(tensor.shape)
        header[name] = {"dtype": tensor.dtype, "shape": shape, "data_offsets": offsets}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for tensor in tensors.values():
        yield from tensor.pieces

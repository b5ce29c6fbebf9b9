"""What the operating system and the decoders say about a file, in the words of robustkit."""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robustkit.errors import BadInput, CorruptFile, MissingFile, RobustkitError

_DAMAGED = (
    EOFError,
    OSError,
    RuntimeError,
    SyntaxError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


@contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Turn any failure to read `path` into one of robustkit's errors.

    Args:
        path: The file or folder being read; the message names it.
        expected: What it should hold, for the message: `a gzipped idx file`.

    Raises:
        MissingFile: It does not exist.
        BadInput: It may not be read, or is a folder where a file is needed or the reverse.
        CorruptFile: It can be opened and does not hold what is expected.
    """
    try:
        yield
    except RobustkitError:
        raise
    except FileNotFoundError as error:
        raise MissingFile(f"{path} does not exist; expected {expected}.") from error
    except PermissionError as error:
        raise BadInput(
            f"{path} may not be read (permission denied); expected {expected}. "
            "Change its permissions or give another path."
        ) from error
    except (IsADirectoryError, NotADirectoryError) as error:
        raise BadInput(f"{path} is not {expected}: {error.strerror}.") from error
    except _DAMAGED as error:
        reason = str(error) or type(error).__name__
        raise CorruptFile(
            f"{path} cannot be read as {expected}: {reason.rstrip('.')}. "
            "The file is damaged or of another format; get it again."
        ) from error


def is_there(path: Path) -> bool:
    """Whether `path` exists and its parents may be searched; an unreadable parent counts as no."""
    try:
        return path.exists()
    except OSError:
        return False

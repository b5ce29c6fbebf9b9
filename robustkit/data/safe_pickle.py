"""Reading the data batches of CIFAR, which are pickles, without running what they ask for.

A pickle may name any function to call. Here the few names that a pickled array of bytes needs are
answered by stand-ins that only note what they are given, and any other name is refused, so that
nothing of the file is ever executed.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robustkit.data.reading import reading
from robustkit.errors import CorruptFile


class _Dtype:
    """Stands in for `numpy.dtype`: notes its name."""

    def __init__(self, name: object = "", *_: object) -> None:
        self.name = name

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment, which bytes do not have."""


class _Array:
    """Stands in for `numpy.ndarray`: notes its shape, type and content."""

    def __init__(self, *_: object) -> None:
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def plain(self) -> npt.NDArray[np.uint8]:
        """The array that was pickled, if it is one of bytes."""
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            raise ValueError("an array without content")
        _, shape, dtype, fortran, data = self.state
        content = data.encode("latin1") if isinstance(data, str) else data
        if not (isinstance(dtype, _Dtype) and dtype.name in ("u1", "|u1", b"u1")):
            raise ValueError("an array of another type than bytes")
        if not isinstance(content, bytes | bytearray):
            raise ValueError("an array without bytes")
        flat = np.frombuffer(content, dtype=np.uint8)
        return flat.reshape(shape, order="F" if fortran else "C")


def _encode(text: object, encoding: object = "latin1") -> bytes:
    """Stands in for `_codecs.encode`, with which Python 3 writes bytes in old pickles."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("text in an encoding other than latin1")
    return text.encode("latin1")


def _rebuild(*_: object) -> _Array:
    """Stands in for numpy's `_reconstruct`."""
    return _Array()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:  # noqa: ANN401
    """Stands in for numpy's `_frombuffer`, with which protocol 5 writes arrays."""
    array = _Array()
    array.state = (1, shape, dtype, order == "F", bytes(data))
    return array


_STAND_INS: dict[tuple[str, str], object] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _rebuild,
    ("numpy._core.multiarray", "_reconstruct"): _rebuild,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _encode,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        """The stand-in for a name; no import ever happens."""
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks to run {module}.{name}, and files never run anything here"
            ) from None


def read_batch(path: Path) -> dict[str, Any]:
    """The dictionary in a data batch: texts, numbers, lists, and arrays of bytes.

    Args:
        path: A pickle of any protocol, written by Python 2 or 3.

    Raises:
        MissingFile: It is not there.
        CorruptFile: It is no such pickle, or asks for anything but an array of bytes.
    """
    with reading(path, "a data batch"), path.open("rb") as stream:
        try:
            loaded = _Reader(stream, encoding="latin1").load()
            if not isinstance(loaded, dict):
                raise ValueError("it holds no dictionary")
            return {_text(key): _plain(value) for key, value in loaded.items()}
        except OSError:
            raise
        except Exception as error:
            # Random bytes make the unpickler fail in any way at all.
            raise CorruptFile(
                f"{path} cannot be read as a data batch: {error}. The file is damaged or not what "
                "it claims to be; get it again."
            ) from error


def _text(key: object) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)


def _plain(value: object) -> object:
    return value.plain() if isinstance(value, _Array) else value

"""CIFAR-10 and CIFAR-100, from the batches for Python or the binary ones."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from robustkit.data import class_names
from robustkit.data.labelled_images import LabelledImages
from robustkit.data.loading import Request
from robustkit.data.pixels import ArrayPixels
from robustkit.data.places import first_file, locate
from robustkit.data.reading import reading
from robustkit.data.safe_pickle import read_batch
from robustkit.errors import CorruptFile

_PIXELS = 3 * 32 * 32

Bytes = npt.NDArray[np.uint8]
Part = tuple[Bytes, npt.NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layout:
    """How one edition of a set is spread over files.

    Attributes:
        folder: Its own folder.
        files: The files of each split, in stored order.
        read: Gives a file's images (n, 3072) and labels (n,).
    """

    folder: str
    files: dict[str, tuple[str, ...]]
    read: Callable[[Path], Part]


def load_cifar10(request: Request) -> LabelledImages:
    """CIFAR-10, (3, 32, 32), from `cifar-10-batches-py` or `cifar-10-batches-bin`."""
    return _load(request, _CIFAR10)


def load_cifar100(request: Request) -> LabelledImages:
    """CIFAR-100 with its 100 fine labels, from `cifar-100-python` or `cifar-100-binary`."""
    return _load(request, _CIFAR100)


def read_python_batch(path: Path) -> Part:
    """The images (n, 3072) and (fine) labels (n,) of a batch for Python; runs nothing in it.

    Raises:
        MissingFile: It is not there.
        CorruptFile: It does not hold images and their labels.
    """
    batch = read_batch(path)
    images: Any = batch.get("data")
    labels: Any = batch.get("fine_labels", batch.get("labels"))
    if not isinstance(images, np.ndarray) or images.ndim != 2 or images.shape[1] != _PIXELS:
        raise CorruptFile(f"{path} holds no images (n, {_PIXELS}) under 'data'. Get it again.")
    whole = isinstance(labels, list) and all(type(label) is int for label in labels)
    if not whole or len(labels) != len(images):
        raise CorruptFile(f"{path} does not hold one whole label per image. Get it again.")
    return images, np.array(labels, dtype=np.int64)


def read_binary_batch(path: Path, label_bytes: int) -> Part:
    """The images (n, 3072) and labels (n,) of a binary batch.

    Args:
        path: The file.
        label_bytes: How many label bytes precede each image; the last of them counts.

    Raises:
        MissingFile: It is not there.
        CorruptFile: Its size is no whole number of examples.
    """
    with reading(path, "a binary batch"):
        data = np.fromfile(path, dtype=np.uint8)
    example = label_bytes + _PIXELS
    if len(data) == 0 or len(data) % example:
        raise CorruptFile(
            f"{path} has {len(data)} bytes, which is no whole number of examples of {example}. "
            "Get the file again."
        )
    table = data.reshape(-1, example)
    return table[:, label_bytes:], table[:, label_bytes - 1].astype(np.int64)


def _read_binary10(path: Path) -> Part:
    return read_binary_batch(path, 1)


def _read_binary100(path: Path) -> Part:
    return read_binary_batch(path, 2)


_CIFAR10 = (
    _Layout(
        folder="cifar-10-batches-py",
        files={
            "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
            "test": ("test_batch",),
        },
        read=read_python_batch,
    ),
    _Layout(
        folder="cifar-10-batches-bin",
        files={
            "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
            "test": ("test_batch.bin",),
        },
        read=_read_binary10,
    ),
)
_CIFAR100 = (
    _Layout(
        folder="cifar-100-python",
        files={"train": ("train",), "test": ("test",)},
        read=read_python_batch,
    ),
    _Layout(
        folder="cifar-100-binary",
        files={"train": ("train.bin",), "test": ("test.bin",)},
        read=_read_binary100,
    ),
)


def _load(request: Request, layouts: tuple[_Layout, ...]) -> LabelledImages:
    split = request.one_of("test", "train")

    def find(folder: Path) -> tuple[_Layout, Path] | None:
        # Only a file's absence sends the search on: a batch that lacks its brothers is an error.
        for layout in layouts:
            if first_file(folder, *layout.files[split]):
                return layout, folder
        return None

    layout, folder = locate(
        request,
        find,
        below=[layout.folder for layout in layouts],
        files=[name for layout in layouts for name in layout.files[split]],
    )
    parts = [layout.read(folder / name) for name in layout.files[split]]
    images = np.concatenate([part[0] for part in parts]).reshape(-1, 3, 32, 32)
    return LabelledImages(
        ArrayPixels(array=images),
        torch.from_numpy(np.concatenate([part[1] for part in parts])),
        spec=request.spec,
        split=split,
        class_names=class_names.of(request.spec),
    )

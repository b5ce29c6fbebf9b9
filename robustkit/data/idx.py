"""MNIST and Fashion-MNIST from idx files, plain or gzipped."""

import gzip
import math
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
from robustkit.errors import CorruptFile

_UNSIGNED_BYTE = 8
# Deflate cannot do better than about 1032 : 1, so that a header may not claim more than this.
_MOST_COMPRESSION = 1040
_PREFIX = {"test": "t10k", "train": "train"}


def load_mnist(request: Request) -> LabelledImages:
    """MNIST, (1, 28, 28): `MNIST/raw` or `mnist` below one of the places searched."""
    return _load(request, below=("MNIST/raw", "MNIST", "mnist"))


def load_fashion_mnist(request: Request) -> LabelledImages:
    """Fashion-MNIST, (1, 28, 28): `FashionMNIST/raw` or `fashion-mnist` below a place searched.

    Debian's package `dataset-fashion-mnist` installs it where it is found without any option.
    """
    return _load(request, below=("FashionMNIST/raw", "FashionMNIST", "fashion-mnist"))


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """The array of bytes in an idx file; a name that ends in `.gz` is unpacked.

    Args:
        path: The file.
        dimensions: How many dimensions it must have: 3 for images, 1 for labels.

    Raises:
        MissingFile: It is not there.
        CorruptFile: It is no such idx file, or shorter or longer than its header says.
    """
    gzipped = path.suffix == ".gz"
    opener: Any = gzip.open if gzipped else open
    with reading(path, "an idx file"), opener(path, "rb") as stream:
        shape = _header(stream.read(4 + 4 * dimensions), dimensions, path)
        size = math.prod(shape)
        most = path.stat().st_size * (_MOST_COMPRESSION if gzipped else 1)
        data = stream.read(size + 1) if size <= most else b""
    if len(data) != size:
        found = "more" if len(data) > size else f"{len(data) or 'fewer'}"
        raise CorruptFile(
            f"{path} is damaged: its header announces {size} bytes and {found} follow. "
            "Get the file again."
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _header(head: bytes, dimensions: int, path: Path) -> tuple[int, ...]:
    expected = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    if len(head) < 4 + 4 * dimensions or head[:4] != expected:
        raise CorruptFile(
            f"{path} is no idx file of bytes in {dimensions} dimension(s): it begins with "
            f"{head[:4].hex() or 'nothing'} where {expected.hex()} is expected. Get the file again."
        )
    return tuple(int(side) for side in np.frombuffer(head, dtype=">u4", offset=4))


def _load(request: Request, *, below: tuple[str, ...]) -> LabelledImages:
    prefix = _PREFIX[request.one_of("test", "train")]
    names = (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")

    def find(folder: Path) -> tuple[Path, Path] | None:
        images, labels = (first_file(folder, name, f"{name}.gz") for name in names)
        return (images, labels) if images and labels else None

    images_path, labels_path = locate(request, find, below=below, files=names)
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise CorruptFile(
            f"{images_path} holds {len(images)} images and {labels_path} {len(labels)} labels. "
            "They belong to different sets or are damaged; get both again."
        )
    return LabelledImages(
        ArrayPixels(array=images[:, None]),
        torch.from_numpy(labels.astype(np.int64)),
        spec=request.spec,
        split=request.split,
        class_names=class_names.of(request.spec),
    )

import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from robustkit.data import load
from robustkit.data.safe_pickle import read_batch
from robustkit.errors import BadInput, CorruptFile, MissingFile

Bytes = npt.NDArray[np.uint8]


class Marker:
    """Would write a file if anything unpickled it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.write_text, (self.path, "executed")


def some(n: int, seed: int = 0) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, (n, 3072)).astype(np.uint8)


def python2_batch(images: Bytes, labels: list[int], key: bytes = b"labels") -> bytes:
    """A batch as Python 2 pickled it, which is what the published archives hold."""
    data = images.tobytes()

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    rebuild = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN" + number(-1) * 2 + b"K\x00tb"
    shape = number(images.shape[0]) + number(images.shape[1]) + b"\x86"
    array = rebuild + b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<i", len(data)) + data
    listed = b"](" + b"".join(number(label) for label in labels) + b"e"
    items = text(b"data") + array + b"tb" + text(key) + listed
    return b"\x80\x02}(" + items + b"u."


def write_cifar10(root: Path, dump: Callable[[Bytes, list[int]], bytes]) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for number in range(1, 6):
        (folder / f"data_batch_{number}").write_bytes(dump(some(2, number), [number, 0]))
    (folder / "test_batch").write_bytes(dump(some(3), [9, 1, 4]))


def python3_batch(images: Bytes, labels: list[int], protocol: int) -> bytes:
    return pickle.dumps({"data": images, "labels": labels, "filenames": ["a"]}, protocol=protocol)


@pytest.mark.parametrize("protocol", [-2, 0, 1, 2, 3, 4, 5])
def test_cifar10_from_pickles_of_every_kind(tmp_path: Path, protocol: int) -> None:
    if protocol == -2:
        write_cifar10(tmp_path, python2_batch)
    else:
        write_cifar10(tmp_path, lambda images, labels: python3_batch(images, labels, protocol))
    test, train = load("cifar10", root=tmp_path), load("cifar10", root=tmp_path, split="train")
    assert np.array_equal(test.stored(slice(None)).numpy(), some(3).reshape(3, 3, 32, 32))
    assert test.labels.tolist() == [9, 1, 4]
    assert train.labels.tolist() == [1, 0, 2, 0, 3, 0, 4, 0, 5, 0]
    assert np.array_equal(train.stored([8]).numpy().ravel(), some(2, 5)[0])
    assert test.class_names[9] == "truck"


def test_the_batch_of_python_2_is_one_that_the_usual_reader_understands(tmp_path: Path) -> None:
    loaded = pickle.loads(python2_batch(some(2), [3, 4]), encoding="latin1")
    assert np.array_equal(loaded["data"], some(2))
    assert loaded["labels"] == [3, 4]


def test_cifar100_takes_the_fine_labels(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    batch = {b"data": some(2), b"coarse_labels": [1, 2], b"fine_labels": [98, 3]}
    (folder / "test").write_bytes(pickle.dumps(batch, protocol=2))
    (folder / "train").write_bytes(python2_batch(some(1), [7], b"fine_labels"))
    images = load("cifar100", root=tmp_path)
    assert images.labels.tolist() == [98, 3]
    assert images.class_names[98] == "woman"
    assert load("cifar100", root=tmp_path, split="train").labels.tolist() == [7]


def test_the_binary_editions(tmp_path: Path) -> None:
    ten, hundred = tmp_path / "cifar-10-batches-bin", tmp_path / "cifar-100-binary"
    ten.mkdir()
    hundred.mkdir()
    images = some(3)
    column = np.array([[9], [1], [4]], dtype=np.uint8)
    (ten / "test_batch.bin").write_bytes(np.hstack([column, images]).tobytes())
    (hundred / "test.bin").write_bytes(np.hstack([column * 0, column * 10, images]).tobytes())
    for spec, labels in (("cifar10", [9, 1, 4]), ("cifar100", [90, 10, 40])):
        found = load(spec, root=tmp_path)
        assert np.array_equal(found.stored(slice(None)).numpy().reshape(3, -1), images)
        assert found.labels.tolist() == labels


def test_the_same_images_have_the_same_hash_in_both_editions(tmp_path: Path) -> None:
    write_cifar10(tmp_path, python2_batch)
    folder = tmp_path / "other" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    column = np.array([[9], [1], [4]], dtype=np.uint8)
    (folder / "test_batch.bin").write_bytes(np.hstack([column, some(3)]).tobytes())
    python, binary = load("cifar10", root=tmp_path), load("cifar10", root=tmp_path / "other")
    assert python.sha256 == binary.sha256


@pytest.mark.parametrize("where", ["value", "instead", "inside", "dtype"])
def test_nothing_in_a_batch_is_ever_executed(tmp_path: Path, where: str) -> None:
    marker = Marker(tmp_path / "marker")
    objects: dict[str, Any] = {
        "value": {"data": some(1), "labels": [1], "extra": marker},
        "instead": marker,
        "inside": {"data": np.array([[marker]], dtype=object), "labels": [1]},
        "dtype": {"data": np.zeros((1, 3072), dtype=[("x", "u1")]), "labels": marker},
    }
    content = pickle.dumps(objects[where])
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "test_batch").write_bytes(content)
    with pytest.raises(CorruptFile, match="never run"):
        load("cifar10", root=tmp_path)
    assert not marker.path.exists()
    # The same bytes do execute in the usual reader, so that the marker proves something.
    pickle.loads(content)
    assert marker.path.read_text() == "executed"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"random bytes that are no pickle",
        python2_batch(some(3), [1, 2, 3])[:4000],
        pickle.dumps([1, 2]),
        pickle.dumps({"labels": [1]}),
        pickle.dumps({"data": some(2), "labels": [1]}),
        pickle.dumps({"data": some(1), "labels": ["cat"]}),
        pickle.dumps({"data": some(1), "labels": [0.5]}),
        pickle.dumps({"data": some(2)[:, :-1], "labels": [1, 2]}),
        pickle.dumps({"data": some(1).astype(np.float32), "labels": [1]}),
        pickle.dumps({"data": some(1).tobytes(), "labels": [1]}),
    ],
    ids=[
        "empty",
        "noise",
        "truncated",
        "list",
        "no images",
        "lengths",
        "text labels",
        "float labels",
        "shape",
        "floats",
        "bytes",
    ],
)
def test_damaged_batches(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "test_batch").write_bytes(content)
    with pytest.raises(CorruptFile, match="test_batch"):
        load("cifar10", root=tmp_path)


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_batch_cut_anywhere_is_refused_and_nothing_else(tmp_path: Path, cut: int) -> None:
    content = python2_batch(some(1), [1])
    path = tmp_path / "batch"
    path.write_bytes(content[:-cut])
    with pytest.raises(CorruptFile):
        read_batch(path)


@pytest.mark.parametrize("size", [0, 3072, 2 * 3073 - 1])
def test_damaged_binary_batches(tmp_path: Path, size: int) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "test_batch.bin").write_bytes(bytes(size))
    with pytest.raises(CorruptFile, match="whole number of examples"):
        load("cifar10", root=tmp_path)


def test_a_missing_batch_among_others(tmp_path: Path) -> None:
    write_cifar10(tmp_path, python2_batch)
    (tmp_path / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(MissingFile, match="data_batch_4"):
        load("cifar10", root=tmp_path, split="train")


def test_labels_out_of_range(tmp_path: Path) -> None:
    write_cifar10(tmp_path, lambda images, _: python2_batch(images, [10] * len(images)))
    with pytest.raises(BadInput, match="0 to 9"):
        load("cifar10", root=tmp_path)


def test_an_empty_batch(tmp_path: Path) -> None:
    write_cifar10(tmp_path, lambda images, _: python3_batch(images[:0], [], 4))
    with pytest.raises(BadInput, match="empty"):
        load("cifar10", root=tmp_path)

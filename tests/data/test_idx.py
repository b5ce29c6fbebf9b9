import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from robustkit.data import load, places
from robustkit.data.idx import read_idx
from robustkit.errors import BadInput, CorruptFile, MissingFile

DEBIAN = Path("/usr/share/datasets")
Bytes = npt.NDArray[np.uint8]


def idx(array: Bytes) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.tobytes()


def write_set(folder: Path, images: Bytes, labels: Bytes, *, prefix: str, gz: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        path = folder / f"{prefix}-{name}-ubyte{'.gz' if gz else ''}"
        path.write_bytes(gzip.compress(idx(array)) if gz else idx(array))


def some(n: int = 6) -> tuple[Bytes, Bytes]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 28, 28)).astype(np.uint8)
    return images, np.arange(n, dtype=np.uint8) % 10


@pytest.mark.parametrize("gz", [True, False])
@pytest.mark.parametrize(
    ("spec", "below"),
    [
        ("mnist", "MNIST/raw"),
        ("mnist", "mnist"),
        ("fashion-mnist", "FashionMNIST/raw"),
        ("fashion-mnist", "fashion-mnist"),
    ],
)
def test_both_sets_in_every_layout(tmp_path: Path, spec: str, below: str, *, gz: bool) -> None:
    images, labels = some()
    write_set(tmp_path / below, images, labels, prefix="t10k", gz=gz)
    write_set(tmp_path / below, images[:2], labels[:2], prefix="train", gz=gz)
    test = load(spec, root=tmp_path)
    assert np.array_equal(test.stored(slice(None)).numpy(), images[:, None])
    assert np.array_equal(test.labels.numpy(), labels)
    assert test.classes == 10
    assert len(load(spec, root=tmp_path, split="train")) == 2
    # The set's own folder may be named as well, and only by the set it belongs to.
    assert len(load(spec, root=tmp_path / below)) == 6
    other = "mnist" if spec == "fashion-mnist" else "fashion-mnist"
    with pytest.raises(MissingFile):
        load(other, root=tmp_path / below)


@pytest.mark.parametrize("place", ["env", "xdg/robustkit", "system"])
def test_every_place_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("ROBUSTKIT_DATA", str(tmp_path / "env"))
    (tmp_path / "root").mkdir()
    write_set(tmp_path / place / "fashion-mnist", *some(3), prefix="t10k", gz=True)
    assert len(load("fashion-mnist", root=tmp_path / "root")) == 3
    write_set(tmp_path / "root" / "fashion-mnist", *some(5), prefix="t10k", gz=True)
    assert len(load("fashion-mnist", root=tmp_path / "root")) == 5


Damage = Callable[[bytes], bytes]
DAMAGES: dict[str, Damage] = {
    "empty": lambda _: b"",
    "short header": lambda data: data[:9],
    "magic": lambda data: b"\x00\x00\x0d" + data[3:],
    "dimensions": lambda data: data[:3] + b"\x01" + data[4:],
    "truncated": lambda data: data[:-1],
    "only the header": lambda data: data[:16],
    "longer": lambda data: data + b"\x00",
    "huge": lambda data: data[:4] + b"\xff" * 12 + data[16:],
}


@pytest.mark.parametrize("gz", [True, False])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_content(tmp_path: Path, damage: Damage, *, gz: bool) -> None:
    data = damage(idx(some()[0]))
    path = tmp_path / ("images.gz" if gz else "images")
    path.write_bytes(gzip.compress(data) if gz else data)
    with pytest.raises(CorruptFile, match="images"):
        read_idx(path, 3)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-20],
        lambda data: b"no gzip",
        lambda data: data[:40] + b"~" * 9 + data[49:],
    ],
    ids=["truncated", "no gzip", "overwritten"],
)
def test_damaged_gzip(tmp_path: Path, damage: Damage) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(damage(gzip.compress(idx(some()[0]))))
    with pytest.raises(CorruptFile, match=r"images\.gz"):
        read_idx(path, 3)


def test_images_and_labels_of_different_sets(tmp_path: Path) -> None:
    write_set(tmp_path / "mnist", some(5)[0], some(4)[1], prefix="t10k", gz=True)
    with pytest.raises(CorruptFile, match=r"5 images .* 4 labels"):
        load("mnist", root=tmp_path)


def test_labels_out_of_range(tmp_path: Path) -> None:
    images, labels = some()
    write_set(tmp_path / "mnist", images, labels + 7, prefix="t10k", gz=True)
    with pytest.raises(BadInput, match="0 to 9"):
        load("mnist", root=tmp_path)


def test_an_empty_set(tmp_path: Path) -> None:
    write_set(tmp_path / "mnist", some()[0][:0], some()[1][:0], prefix="t10k", gz=True)
    with pytest.raises(BadInput, match="empty"):
        load("mnist", root=tmp_path)


@pytest.mark.slow
def test_all_of_fashion_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Needs Debian's package dataset-fashion-mnist and fails without it."""
    monkeypatch.setattr(places, "SYSTEM", DEBIAN)
    for split, n in (("train", 60_000), ("test", 10_000)):
        images = load("fashion-mnist", split=split)
        assert images.shape == (1, 28, 28)
        assert images.labels.bincount().tolist() == [n // 10] * 10
    shown = load("samples:fashion-mnist")
    assert torch.equal(images.stored(slice(0, 20)), shown.stored(slice(None)))
    assert torch.equal(images.labels[:20], shown.labels)

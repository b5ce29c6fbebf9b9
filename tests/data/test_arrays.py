import json
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.numpy import save_file

from robustkit.data import load
from robustkit.data.pixels import MappedPixels
from robustkit.errors import BadInput, CorruptFile, ShapeMismatch

Array = npt.NDArray[Any]
Writer = Callable[..., None]


def savez(path: Path, **arrays: Array) -> None:
    np.savez(path.with_suffix(".npz"), allow_pickle=True, **arrays)


def savez_compressed(path: Path, **arrays: Array) -> None:
    np.savez_compressed(path.with_suffix(".npz"), allow_pickle=True, **arrays)


def savetensors(path: Path, **arrays: Array) -> None:
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(contiguous, path.with_suffix(".safetensors"))


WRITERS: dict[str, Writer] = {
    "npz": savez,
    "npz compressed": savez_compressed,
    "safetensors": savetensors,
}


@pytest.fixture(params=list(WRITERS.values()), ids=list(WRITERS))
def write(request: pytest.FixtureRequest) -> Writer:
    writer: Writer = request.param
    return writer


def the_file(folder: Path) -> str:
    (path,) = folder.glob("set.*")
    return str(path)


def bytes_of(*shape: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def test_floats(tmp_path: Path, write: Writer) -> None:
    inputs = np.random.default_rng(0).random((6, 3, 4, 5), dtype=np.float32)
    write(tmp_path / "set", inputs=inputs, labels=np.array([0, 1, 2, 0, 1, 2]))
    images = load(the_file(tmp_path))
    assert images.shape == (3, 4, 5)
    assert images.classes == 3
    assert np.array_equal(images.inputs([4, 1]).numpy(), inputs[[4, 1]])


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.int32, np.int64])
def test_grey_bytes_and_labels_of_any_integers(
    tmp_path: Path, write: Writer, kind: npt.DTypeLike
) -> None:
    inputs = bytes_of(4, 6, 5)
    write(tmp_path / "set", inputs=inputs, labels=np.array([0, 1, 0, 3], dtype=kind))
    images = load(the_file(tmp_path))
    assert images.shape == (1, 6, 5)
    assert images.labels.tolist() == [0, 1, 0, 3]
    assert np.array_equal(images.stored(slice(None)).numpy(), inputs[:, None])
    assert images.inputs([0]).dtype == torch.float32


def test_colour_bytes_come_channels_last(tmp_path: Path, write: Writer) -> None:
    inputs = bytes_of(4, 6, 5, 3)
    write(tmp_path / "set", inputs=inputs, labels=np.zeros(4, np.int64))
    images = load(the_file(tmp_path))
    assert images.shape == (3, 6, 5)
    assert np.array_equal(images.stored([3])[0].numpy(), inputs[3].transpose(2, 0, 1))


def test_ids_are_kept(tmp_path: Path, write: Writer) -> None:
    write(
        tmp_path / "set",
        inputs=bytes_of(2, 3, 3),
        labels=np.zeros(2, np.int64),
        ids=np.array([70, 5]),
    )
    assert load(the_file(tmp_path)).ids.tolist() == [70, 5]


def test_fortran_order(tmp_path: Path) -> None:
    inputs = np.asfortranarray(bytes_of(5, 4, 3))
    for writer in (savez, savez_compressed):
        writer(tmp_path / "set", inputs=inputs, labels=np.zeros(5, np.int64))
        found = load(str(tmp_path / "set.npz")).stored(slice(None)).numpy()
        assert np.array_equal(found, inputs[:, None])


@pytest.mark.parametrize("writer", [savez, savetensors])
def test_a_mapped_file_is_not_read_into_memory_nor_sent_along(
    tmp_path: Path, writer: Writer
) -> None:
    writer(tmp_path / "set", inputs=bytes_of(500, 64, 64), labels=np.zeros(500, np.int64))
    images = load(the_file(tmp_path))
    assert isinstance(images._pixels, MappedPixels)
    sent = pickle.dumps(images)
    assert len(sent) < 50_000
    assert torch.equal(pickle.loads(sent).stored([499]), images.stored([499]))


@pytest.mark.parametrize("writer", [savez, savetensors])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, writer: Writer) -> None:
    inputs = np.zeros((4000, 3, 96, 96), dtype=np.float32)  # 442 MB
    writer(tmp_path / "set", inputs=inputs, labels=np.zeros(4000, np.int64))
    del inputs
    code = (
        "import sys; from robustkit.data import load;"
        "rss = lambda: next(int(l.split()[1]) for l in open('/proc/self/status')"
        " if l.startswith('RssAnon'));"
        "load('digits', n=1).sha256; before = rss();"
        f"images = load({the_file(tmp_path)!r}); images.sha256; images.inputs(slice(0, 32));"
        "sys.exit(rss() - before > 120_000)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("value", [-0.1, 1.5, np.nan])
def test_floats_out_of_range(tmp_path: Path, write: Writer, value: float) -> None:
    inputs = np.zeros((3, 1, 2, 2), dtype=np.float32)
    inputs[2, 0, 1, 0] = value
    write(tmp_path / "set", inputs=inputs, labels=np.zeros(3, np.int64))
    with pytest.raises(BadInput, match=r"Image 2 .*outside"):
        load(the_file(tmp_path))


WRONG: dict[str, tuple[Array, Array, type[BadInput]]] = {
    "doubles": (np.zeros((2, 1, 4, 4)), np.zeros(2, np.int64), BadInput),
    "integers": (np.zeros((2, 1, 4, 4), np.int32), np.zeros(2, np.int64), BadInput),
    "too flat": (np.zeros((2, 4), np.uint8), np.zeros(2, np.int64), ShapeMismatch),
    "no pixels": (np.zeros((2, 0, 4), np.uint8), np.zeros(2, np.int64), ShapeMismatch),
    "grey floats": (np.zeros((2, 4, 4), np.float32), np.zeros(2, np.int64), ShapeMismatch),
    "bytes channels first": (bytes_of(2, 3, 8, 8), np.zeros(2, np.int64), ShapeMismatch),
    "floats channels last": (np.zeros((2, 8, 8, 3), np.float32), np.zeros(2, int), ShapeMismatch),
    "lengths": (bytes_of(2, 4, 4), np.zeros(3, np.int64), ShapeMismatch),
    "one-hot": (bytes_of(2, 4, 4), np.eye(2, dtype=np.int64), ShapeMismatch),
    "float labels": (bytes_of(2, 4, 4), np.zeros(2), BadInput),
    "negative label": (bytes_of(2, 4, 4), np.array([0, -1]), BadInput),
    "absurd label": (bytes_of(2, 4, 4), np.array([0, 10**15]), BadInput),
    "empty": (np.zeros((0, 4, 4), np.uint8), np.zeros(0, np.int64), BadInput),
    "empty floats": (np.zeros((0, 3, 4, 4), np.float32), np.zeros(0, np.int64), BadInput),
}


@pytest.mark.parametrize(("inputs", "labels", "error"), WRONG.values(), ids=WRONG.keys())
def test_wrong_arrays(
    tmp_path: Path, write: Writer, inputs: Array, labels: Array, error: type[BadInput]
) -> None:
    write(tmp_path / "set", inputs=inputs, labels=labels)
    with pytest.raises(error):
        load(the_file(tmp_path))


def test_missing_arrays(tmp_path: Path, write: Writer) -> None:
    write(tmp_path / "set", images=bytes_of(2, 4, 4), labels=np.zeros(2, np.int64))
    with pytest.raises(BadInput, match="holds no inputs"):
        load(the_file(tmp_path))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated_files(tmp_path: Path, write: Writer, share: float) -> None:
    write(tmp_path / "set", inputs=bytes_of(30, 20, 20), labels=np.zeros(30, np.int64))
    path = Path(the_file(tmp_path))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CorruptFile, match=r"set\."):
        load(str(path))


def test_noise_instead_of_a_file(tmp_path: Path, write: Writer) -> None:
    write(tmp_path / "set", inputs=bytes_of(2, 4, 4), labels=np.zeros(2, np.int64))
    Path(the_file(tmp_path)).write_bytes(bytes_of(5000).tobytes())
    with pytest.raises(CorruptFile, match=r"set\."):
        load(the_file(tmp_path))


@pytest.mark.parametrize("writer", [savez, savez_compressed])
def test_a_changed_byte_in_an_npz(tmp_path: Path, writer: Writer) -> None:
    writer(tmp_path / "set", inputs=bytes_of(30, 20, 20), labels=np.zeros(30, np.int64))
    path = tmp_path / "set.npz"
    content = bytearray(path.read_bytes())
    content[6000] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptFile, match=r"set\.npz"):
        load(str(path))


class Marker:
    """Would write a file if anything unpickled it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.write_text, (self.path, "executed")


@pytest.mark.parametrize("name", ["inputs", "labels", "ids"])
@pytest.mark.parametrize("writer", [savez, savez_compressed])
def test_a_pickle_inside_is_never_executed(tmp_path: Path, writer: Writer, name: str) -> None:
    marker = Marker(tmp_path / "marker")
    arrays: dict[str, Array] = {"inputs": bytes_of(1, 2, 2), "labels": np.zeros(1, np.int64)}
    arrays[name] = np.array([marker], dtype=object)
    writer(tmp_path / "set", **arrays)
    with pytest.raises(CorruptFile, match="never loaded"):
        load(str(tmp_path / "set.npz"))
    assert not marker.path.exists()
    # The same file does execute where pickles are allowed, so that the marker proves something.
    with np.load(tmp_path / "set.npz", allow_pickle=True) as opened:
        opened[name]
    assert marker.path.read_text() == "executed"


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_pickle_in_place_of_arrays(tmp_path: Path, suffix: str) -> None:
    marker = Marker(tmp_path / "marker")
    path = tmp_path / f"set{suffix}"
    path.write_bytes(pickle.dumps(marker))
    with pytest.raises(CorruptFile):
        load(str(path))
    assert not marker.path.exists()


def test_a_header_that_announces_more_than_there_is(tmp_path: Path) -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1, 1000000, 1000000)}"
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    path = tmp_path / "set.npz"
    with zipfile.ZipFile(path, "w") as archive:
        content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
        archive.writestr("inputs.npy", content)
        archive.writestr("labels.npy", b"")
    with pytest.raises(CorruptFile, match="where its header announces"):
        load(str(path))


def test_a_safetensors_header_that_announces_more_than_there_is(tmp_path: Path) -> None:
    header = json.dumps(
        {
            "inputs": {"dtype": "U8", "shape": [1, 9, 9], "data_offsets": [0, 81]},
            "labels": {"dtype": "I64", "shape": [1], "data_offsets": [81, 89]},
        }
    ).encode()
    path = tmp_path / "set.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(20))
    with pytest.raises(CorruptFile):
        load(str(path))


def test_a_message_tells_the_shape_that_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "doubles.npz"
    np.savez(path, inputs=np.zeros((6, 3, 4, 4)), labels=np.zeros(6, dtype=np.int64))
    with pytest.raises(ShapeMismatch, match=r"shape \(6, 3, 4, 4\) and type float64"):
        load(str(path))

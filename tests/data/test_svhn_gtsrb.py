from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from robustkit.data import load
from robustkit.errors import BadInput, CorruptFile, MissingFile


def write_svhn(path: Path, n: int = 3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, (32, 32, 3, n)).astype(np.uint8)
    labels = np.array([10, 1, 9], dtype=np.uint8)[:n, None]
    savemat(path, {"X": images, "y": labels}, do_compression=True)


@pytest.mark.parametrize("below", [".", "svhn", "SVHN"])
@pytest.mark.parametrize("split", ["test", "train", "extra"])
def test_svhn(tmp_path: Path, below: str, split: str) -> None:
    write_svhn(tmp_path / below / f"{split}_32x32.mat")
    images = load("svhn", root=tmp_path, split=split)
    expected = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 3)).astype(np.uint8)
    assert images.labels.tolist() == [0, 1, 9]
    assert images.classes == 10
    assert np.array_equal(images.stored([1])[0].numpy(), expected[:, :, :, 1].transpose(2, 0, 1))


def test_svhn_damaged(tmp_path: Path) -> None:
    path = tmp_path / "test_32x32.mat"
    write_svhn(path)
    whole = path.read_bytes()
    for content in (
        b"",
        b"no mat file at all",
        whole[:200],
        whole[:-50],
        whole[:300] + b"~" * 99 + whole[399:],
    ):
        path.write_bytes(content)
        with pytest.raises(CorruptFile, match="test_32x32"):
            load("svhn", root=tmp_path)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((3, 32, 32, 2), np.uint8), np.ones((2, 1), np.uint8)),
        (np.zeros((32, 32, 3, 2), np.float32), np.ones((2, 1), np.uint8)),
        (np.zeros((32, 32, 3, 2), np.uint8), np.ones((3, 1), np.uint8)),
        (np.zeros((32, 32, 3, 2), np.uint8), np.full((2, 1), 0.5)),
    ],
    ids=["order", "floats", "lengths", "float labels"],
)
def test_svhn_of_the_wrong_shape(
    tmp_path: Path,
    images: np.ndarray,
    labels: np.ndarray,
) -> None:
    savemat(tmp_path / "test_32x32.mat", {"X": images, "y": labels})
    with pytest.raises(CorruptFile, match="test_32x32"):
        load("svhn", root=tmp_path)


def test_svhn_labels_out_of_range(tmp_path: Path) -> None:
    content = {"X": np.zeros((32, 32, 3, 1), np.uint8), "y": np.array([[11]])}
    savemat(tmp_path / "test_32x32.mat", content)
    with pytest.raises(BadInput, match="0 to 9"):
        load("svhn", root=tmp_path)


def write_gtsrb(root: Path) -> None:
    folder = root / "gtsrb"
    for label, colour, size in ((0, 10, (30, 29)), (42, 200, (55, 60))):
        part = folder / "GTSRB" / "Training" / f"{label:05d}"
        part.mkdir(parents=True)
        Image.new("RGB", size, (colour, 0, 0)).save(part / "00000_00000.ppm")
        (part / f"GT-{label:05d}.csv").write_text("Filename;Width")
    images = folder / "GTSRB" / "Final_Test" / "Images"
    images.mkdir(parents=True)
    Image.new("RGB", (40, 41), (0, 0, 90)).save(images / "00000.ppm")
    Image.new("RGB", (32, 32), (0, 7, 0)).save(images / "00001.ppm")
    table = "Filename;Width;Height;ClassId\n00001.ppm;32;32;3\n00000.ppm;40;41;17\n"
    (folder / "GT-final_test.csv").write_text(table)


@pytest.mark.parametrize("below", [".", "gtsrb"])
def test_gtsrb(tmp_path: Path, below: str) -> None:
    write_gtsrb(tmp_path)
    test = load("gtsrb", root=tmp_path / below)
    train = load("gtsrb", root=tmp_path / below, split="train", size=48)
    assert (test.shape, train.shape) == ((3, 32, 32), (3, 48, 48))
    assert test.labels.tolist() == [3, 17]
    assert train.labels.tolist() == [0, 42]
    assert test.class_names[17] == "no entry"
    assert test.classes == 43
    assert [image.amax(dim=(1, 2)).tolist() for image in test.stored([0, 1])] == [
        [0, 7, 0],
        [0, 0, 90],
    ]
    assert train.stored([1]).amax() == 200


def test_gtsrb_without_its_table(tmp_path: Path) -> None:
    write_gtsrb(tmp_path)
    (tmp_path / "gtsrb" / "GT-final_test.csv").unlink()
    with pytest.raises(MissingFile, match="GT-final_test"):
        load("gtsrb", root=tmp_path)


@pytest.mark.parametrize(
    "table",
    [
        "",
        "a;b\n1;2\n",
        "Filename;ClassId\n00000.ppm;stop\n",
        "Filename;ClassId\n00000.ppm\n",
        "Filename;ClassId\n../../../secret.ppm;1\n",
        "\xff\x00Filename",
    ],
    ids=["empty", "columns", "text label", "short row", "elsewhere", "noise"],
)
def test_gtsrb_damaged_table(tmp_path: Path, table: str) -> None:
    write_gtsrb(tmp_path)
    (tmp_path / "gtsrb" / "GT-final_test.csv").write_bytes(table.encode("latin1"))
    with pytest.raises(BadInput):
        load("gtsrb", root=tmp_path)


def test_gtsrb_labels_out_of_range(tmp_path: Path) -> None:
    write_gtsrb(tmp_path)
    (tmp_path / "gtsrb" / "GT-final_test.csv").write_text("Filename;ClassId\n00000.ppm;43\n")
    with pytest.raises(BadInput, match="0 to 42"):
        load("gtsrb", root=tmp_path)


def test_gtsrb_missing_and_damaged_images(tmp_path: Path) -> None:
    write_gtsrb(tmp_path)
    images = load("gtsrb", root=tmp_path)
    folder = tmp_path / "gtsrb" / "GTSRB" / "Final_Test" / "Images"
    (folder / "00001.ppm").write_bytes((folder / "00000.ppm").read_bytes()[:500])
    with pytest.raises(CorruptFile, match="00001"):
        images.inputs([0])
    (folder / "00001.ppm").unlink()
    with pytest.raises(MissingFile, match="00001"):
        images.inputs([0])

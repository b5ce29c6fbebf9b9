from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustkit.data import load
from robustkit.errors import BadInput, CorruptFile, MissingFile


def picture(path: Path, value: int, *, size: tuple[int, int] = (8, 6), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode in ("L", "1", "P", "I;16") else (value,) * len(mode)).save(
        path
    )


def two_classes(root: Path) -> Path:
    picture(root / "dog" / "b.png", 20)
    picture(root / "dog" / "a.PNG", 10)
    picture(root / "cat" / "z.bmp", 30)
    (root / "dog" / "notes.txt").write_text("not an image")
    (root / "dog" / ".hidden.png").write_text("not an image")
    (root / ".git").mkdir()
    return root


def test_classes_and_order(tmp_path: Path) -> None:
    images = load(str(two_classes(tmp_path)))
    assert images.class_names == ("cat", "dog")
    assert images.labels.tolist() == [0, 1, 1]
    assert images.shape == (3, 6, 8)
    assert images.stored(slice(None))[:, 0, 0, 0].tolist() == [30, 10, 20]
    assert images.spec == str(tmp_path)


def test_images_without_classes_are_told(tmp_path: Path) -> None:
    picture(tmp_path / "1.png", 1)
    picture(tmp_path / "2.png", 1)
    with pytest.raises(BadInput, match="holds 2 image files, but in no subfolders"):
        load(str(tmp_path))


def test_one_set_is_given_for_any_split(tmp_path: Path) -> None:
    folder = str(two_classes(tmp_path))
    assert load(folder, split="train").sha256 == load(folder, split="test").sha256


def test_splits_share_the_numbers_of_their_classes(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "ant" / "0.png", 1)
    picture(tmp_path / "train" / "bee" / "0.png", 2)
    picture(tmp_path / "test" / "bee" / "0.png", 3)
    test, train = load(str(tmp_path)), load(str(tmp_path), split="train")
    assert test.class_names == train.class_names == ("ant", "bee")
    assert test.labels.tolist() == [1]
    assert test.stored([0]).max() == 3
    assert len(train) == 2
    with pytest.raises(MissingFile, match="it has test, train"):
        load(str(tmp_path), split="val")


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("1", 1), ("RGB", 3), ("RGBA", 3)])
def test_channels_follow_the_files(tmp_path: Path, mode: str, channels: int) -> None:
    picture(tmp_path / "a" / "0.png", 1, mode=mode)
    images = load(str(tmp_path))
    assert images.shape == (channels, 6, 8)
    if mode == "1":
        assert images.inputs([0]).flatten().tolist() == [1.0] * 48


def test_one_colour_file_makes_the_set_colour(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "0.png", 7, mode="L")
    picture(tmp_path / "a" / "1.png", 9)
    assert load(str(tmp_path)).stored([0]).flatten().tolist() == [7] * 144
    assert load(str(tmp_path)).shape == (3, 6, 8)


def test_mixed_sizes_become_one_and_keep_their_aspect(tmp_path: Path) -> None:
    # White in the middle square, black at both ends: a stretched image would show the black.
    wide = np.zeros((20, 60), dtype=np.uint8)
    wide[:, 18:42] = 255
    (tmp_path / "a").mkdir()
    Image.fromarray(wide).save(tmp_path / "a" / "wide.png")
    Image.fromarray(wide.T).save(tmp_path / "a" / "tall.png")
    images = load(str(tmp_path))
    assert images.shape == (1, 32, 32)
    assert images.stored(slice(None)).float().mean() > 250
    assert load(str(tmp_path), size=10).shape == (1, 10, 10)


def test_equal_sizes_stay(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "0.png", 1)
    assert load(str(tmp_path), size=64).shape == (3, 6, 8)


def test_pixels_arrive_unchanged(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a" / "0.png")
    image, label = load(str(tmp_path))[0]
    assert torch.equal(image, torch.from_numpy(pixels.transpose(2, 0, 1) / np.float32(255)))
    assert label == 0


@pytest.mark.parametrize("make", ["nothing", "empty class"])
def test_an_empty_folder(tmp_path: Path, make: str) -> None:
    if make == "empty class":
        (tmp_path / "a").mkdir()
    with pytest.raises(BadInput, match="holds no images"):
        load(str(tmp_path))


def test_a_file_that_is_no_image(tmp_path: Path) -> None:
    two_classes(tmp_path)
    (tmp_path / "dog" / "c.png").write_text("no image")
    with pytest.raises(CorruptFile, match=r"c\.png"):
        load(str(tmp_path))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".ppm", ".webp", ".tiff"])
def test_a_truncated_image(tmp_path: Path, suffix: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    path = tmp_path / "a" / f"0{suffix}"
    path.parent.mkdir()
    Image.fromarray(pixels).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptFile, match="a/0"):
        load(str(tmp_path)).inputs([0])


def test_pixels_of_sixteen_bits_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((4, 4), 60_000, dtype=np.uint16)).save(tmp_path / "a" / "0.png")
    with pytest.raises(BadInput, match="8 bits"):
        load(str(tmp_path))


def test_an_image_too_large_to_decode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a" / "0.png", 1, size=(100, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(CorruptFile, match="pixels"):
        load(str(tmp_path))

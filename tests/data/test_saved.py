import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from robustkit.data import LabelledImages, load, save
from robustkit.errors import BadInput, CannotWrite, CorruptFile, MissingFile, UnknownName


def same(first: LabelledImages, second: LabelledImages) -> bool:
    return (
        first.sha256 == second.sha256
        and torch.equal(first.inputs(slice(None)), second.inputs(slice(None)))
        and torch.equal(first.labels, second.labels)
        and torch.equal(first.ids, second.ids)
        and first.class_names == second.class_names
        and first.split == second.split
    )


@pytest.mark.parametrize("spec", ["samples:cifar10", "samples:mnist", "digits"])
def test_what_is_saved_comes_back(tmp_path: Path, spec: str) -> None:
    images = load(spec).take([7, 3, 11])
    save(images, tmp_path / "new" / "set")
    assert same(load(str(tmp_path / "new" / "set")), images)


def test_the_file_inside_is_a_plain_array_file(tmp_path: Path) -> None:
    images = load("samples:cifar10", n=4)
    save(images, tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    assert torch.equal(load(str(path)).stored(slice(None)), images.stored(slice(None)))


def test_splits_are_added_and_replaced(tmp_path: Path) -> None:
    train, test = load("digits", split="train", n=5), load("digits", n=3)
    save(train, tmp_path)
    save(load("digits", n=2), tmp_path)
    save(test, tmp_path)
    assert same(load(str(tmp_path)), test)
    assert same(load(str(tmp_path), split="train"), train)
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(UnknownName, match="Known: test, train"):
        load(str(tmp_path), split="val")


def test_an_interruption_leaves_the_old_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = load("digits", n=5)
    save(old, tmp_path)
    rename = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.name == "robustkit.json":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(CannotWrite, match="No space left"):
        save(load("digits", n=6), tmp_path)
    assert same(load(str(tmp_path)), old)
    assert not list(tmp_path.glob(".*"))


def test_a_set_of_other_classes_is_not_mixed_in(tmp_path: Path) -> None:
    save(load("digits", n=2), tmp_path)
    with pytest.raises(BadInput, match="other classes"):
        save(load("samples:cifar10"), tmp_path)


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="at least one"):
        save(load("digits").take([]), tmp_path)
    odd = LabelledImages.from_tensors(torch.zeros(1, 1, 2, 2), torch.tensor([0]), split="../up")
    with pytest.raises(BadInput, match="split"):
        save(odd, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be written"):
        save(load("digits", n=1), tmp_path / "file")


def test_a_changed_pixel_is_noticed(tmp_path: Path) -> None:
    save(load("samples:mnist"), tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-400] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptFile, match="hash"):
        load(str(tmp_path))


def test_a_missing_file(tmp_path: Path) -> None:
    save(load("samples:mnist"), tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    path.unlink()
    with pytest.raises(MissingFile, match="safetensors"):
        load(str(tmp_path))


Change = Callable[[dict[str, Any]], Any]
CHANGES: dict[str, Change] = {
    "list": lambda _: [],
    "kind": lambda content: content | {"kind": "models"},
    "version": lambda content: content | {"version": 2},
    "names": lambda content: content | {"class_names": [1]},
    "splits": lambda content: content | {"splits": []},
    "split": lambda content: content | {"splits": {"test": 3}},
    "elsewhere": lambda content: (
        content | {"splits": {"test": {"file": "../x.safetensors", "sha256": ""}}}
    ),
    "fewer names": lambda content: content | {"class_names": ["0"]},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_damaged_description(tmp_path: Path, change: Change) -> None:
    manifest = save(load("samples:mnist"), tmp_path)
    manifest.write_text(json.dumps(change(json.loads(manifest.read_text()))))
    with pytest.raises(BadInput):
        load(str(tmp_path))


def test_a_description_cannot_point_at_files_elsewhere(tmp_path: Path) -> None:
    manifest = save(load("digits", n=2), tmp_path / "set")
    content = json.loads(manifest.read_text())
    split = content["splits"]["test"]
    (tmp_path / "set" / split["file"]).rename(tmp_path / "secret.safetensors")
    split["file"] = "../secret.safetensors"
    manifest.write_text(json.dumps(content))
    with pytest.raises(CorruptFile, match="lacks class names or splits"):
        load(str(tmp_path / "set"))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000])
def test_a_description_that_is_no_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "robustkit.json").write_bytes(content)
    with pytest.raises(CorruptFile, match=r"robustkit\.json"):
        load(str(tmp_path))

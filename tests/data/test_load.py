import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustkit import registry
from robustkit.data import load
from robustkit.data.carried import carried_by
from robustkit.data.places import places
from robustkit.errors import BadInput, MissingExtra, MissingFile, UnknownName


@pytest.mark.parametrize(
    ("name", "shape", "classes", "first"),
    [
        ("cifar10", (3, 32, 32), 10, "cat"),
        ("cifar100", (3, 32, 32), 100, "mountain"),
        ("mnist", (1, 28, 28), 10, "7"),
        ("fashion-mnist", (1, 28, 28), 10, "Ankle boot"),
        ("imagenet", (3, 224, 224), 1000, "echidna"),
    ],
)
def test_samples(name: str, shape: tuple[int, int, int], classes: int, first: str) -> None:
    images = load(f"samples:{name}")
    assert (len(images), images.shape, images.classes) == (20, shape, classes)
    assert len(set(images.class_names)) > 0.99 * classes
    if name != "imagenet":
        assert images.class_names[int(images.labels[0])] == first
    some = images.inputs([0, 19])
    assert some.std() > 0.1
    assert images.sha256 == load(f"samples:{name}").sha256


def test_samples_are_those_that_foolbox_shows() -> None:
    utils = pytest.importorskip("foolbox.utils")
    inputs, labels = utils._samples("cifar10", 0, 20, (32, 32), "channels_first", (0, 1))
    images = load("samples:cifar10")
    assert np.array_equal(images.inputs(slice(None)).numpy(), inputs)
    assert np.array_equal(images.labels.numpy(), labels)


def test_samples_do_not_import_foolbox() -> None:
    code = (
        "import sys; sys.modules['foolbox'] = None; del sys.modules['foolbox'];"
        "from robustkit.data import load; load('samples:mnist').inputs([0]);"
        "sys.exit('foolbox' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_package_and_its_list_do_not_import_torch() -> None:
    code = (
        "import sys, robustkit.data; from robustkit.registry import entries;"
        "assert 'digits' in entries('data'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_digits_have_two_parts_that_share_nothing() -> None:
    train, test = load("digits", split="train"), load("digits")
    assert (len(train), len(test)) == (1437, 360)
    assert train.shape == (1, 8, 8)
    assert test.inputs(slice(None)).max() == 1
    assert set(test.labels.tolist()) == set(range(10))
    rows = {image.numpy().tobytes() for image, _ in train}
    assert not any(image.numpy().tobytes() in rows for image, _ in test)


def test_digits_are_those_that_scikit_learn_gives() -> None:
    # In a process of its own: that import draws from a global generator.
    code = (
        "from sklearn.datasets import load_digits; import numpy as np, torch;"
        "from robustkit.data import load;"
        "inputs, labels = load_digits(return_X_y=True);"
        "parts = [load('digits', split=split) for split in ('train', 'test')];"
        "ours = torch.cat([part.inputs(slice(None)) for part in parts]).numpy();"
        "assert np.array_equal(ours.reshape(-1, 64) * 16, inputs);"
        "assert np.array_equal(torch.cat([part.labels for part in parts]).numpy(), labels)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_package_that_is_not_installed() -> None:
    with pytest.raises(MissingExtra, match="pip install the-name"):
        carried_by("no_such_package", install="the-name")


def test_every_registered_set_has_code_and_a_summary() -> None:
    for entry in registry.entries("data").values():
        assert callable(entry.load())
        assert entry.summary


@pytest.mark.parametrize(
    ("spec", "near"), [("fashion-mnits", "fashion-mnist"), ("samples:cifar", "samples:cifar10")]
)
def test_unknown_names_get_near_ones(spec: str, near: str) -> None:
    with pytest.raises(UnknownName, match=f"Did you mean .*{near}"):
        load(spec)


@pytest.mark.parametrize("spec", ["digits", "samples:mnist", "mnist", "cifar10", "svhn", "gtsrb"])
def test_unknown_splits_are_refused(spec: str) -> None:
    with pytest.raises(UnknownName, match="split"):
        load(spec, split="evaluation")


def test_selection() -> None:
    assert load("digits", n=7).ids.tolist() == list(range(7))
    assert load("digits", n=20, select="stratified", seed=3).labels.bincount().tolist() == [2] * 10
    with pytest.raises(UnknownName, match="selection"):
        load("digits", n=3, select="best")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="Ask for 1 to 360"):
        load("digits", n=0)
    with pytest.raises(BadInput, match="size"):
        load("digits", size=0)


@pytest.mark.parametrize("spec", ["no/such/folder", "missing.npz", "missing.safetensors"])
def test_a_path_without_anything(spec: str) -> None:
    with pytest.raises(MissingFile, match="no file or folder"):
        load(spec)


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "images.pkl"
    path.write_bytes(b"")
    with pytest.raises(BadInput, match="no kind that holds"):
        load(str(path))


@pytest.mark.parametrize("spec", ["mnist", "fashion-mnist", "cifar10", "cifar100", "svhn", "gtsrb"])
def test_an_absent_set_names_all_places(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBUSTKIT_DATA", str(tmp_path / "env"))
    (tmp_path / "root").mkdir()
    with pytest.raises(MissingFile) as caught:
        load(spec, root=tmp_path / "root")
    message = str(caught.value)
    positions = [message.index(str(tmp_path / name)) for name in ("root", "env", "xdg", "system")]
    assert positions == sorted(positions)
    assert "--data-root" in message
    assert "--download, in Python download=True" in message


@pytest.mark.parametrize("spec", ["samples:cifar10", "mnist"])
def test_a_root_that_is_no_folder_is_told(spec: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("file", "nowhere"):
        with pytest.raises(MissingFile, match=rf"no folder .*{name}.*--data-root"):
            load(spec, root=tmp_path / name)


def test_the_order_of_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTKIT_DATA", "~/mine")
    found = places(tmp_path)
    assert found[:2] == (tmp_path, Path("~/mine").expanduser())
    assert found[2] == tmp_path / "xdg" / "robustkit"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert places(None)[1] == Path("~/.cache/robustkit").expanduser()


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder, visited as a user whom permissions bind (root is bound by none)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        _write_all(folder)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            os.seteuid(user)
            for path in folder.rglob("*"):
                path.chmod(0o755)


def _write_all(folder: Path) -> None:
    np.savez(folder / "closed.npz", inputs=np.zeros((1, 2, 2), np.uint8), labels=np.zeros(1, int))
    (folder / "closed.npz").chmod(0)
    (folder / "classes" / "a").mkdir(parents=True)
    Image.new("L", (2, 2)).save(folder / "classes" / "a" / "0.png")
    (folder / "classes" / "a" / "0.png").chmod(0)
    (folder / "shut" / "a").mkdir(parents=True)
    (folder / "shut").chmod(0)


@pytest.mark.parametrize("name", ["closed.npz", "classes", "shut", "shut/a"])
def test_without_permission(nobody: Path, name: str) -> None:
    with pytest.raises(BadInput, match="permission denied"):
        load(str(nobody / name))


def test_a_place_that_may_not_be_entered_is_passed_over(nobody: Path) -> None:
    with pytest.raises(MissingFile, match="shut"):
        load("mnist", root=nobody / "shut")


def test_the_same_seed_does_not_touch_the_global_generator() -> None:
    before = torch.get_rng_state()
    load("digits", n=20, select="stratified")
    assert torch.equal(torch.get_rng_state(), before)

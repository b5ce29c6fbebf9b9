"""`robustkit unlearn make`: a set that others load, a key that stays, and bad input."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustkit import data as datasets
from robustkit import registry
from robustkit.registry import Entry
from robustkit.threat_models import Convolutions
from robustkit.unlearnable import Key, Manifest
from tests.cli.conftest import Invoke, Result


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, with a key in it."""
    monkeypatch.chdir(tmp_path)
    Key(bytes(range(32))).write(tmp_path / "my.key")
    return tmp_path


MAKE = "unlearn make --method cuda --data digits --key-file my.key --out out --device cpu"


def refused(result: Result, *words: str, code: int = 2) -> None:
    assert result.code == code, result.err
    assert result.out == ""
    assert "Traceback" not in result.err
    assert sum(line.startswith("Error: ") for line in result.err.splitlines()) == 1
    for word in words:
        assert word in result.err


def test_the_set_is_written_described_and_taken_by_train_and_evaluate(
    invoke: Invoke, place: Path
) -> None:
    result = invoke(f"{MAKE} --n 300")
    assert result.code == 0, result.err
    assert "cuda of digits, 300 of 300 training images changed" in result.out
    assert "unlearn audit --data out --key-file my.key" in result.out
    assert "out.private.html" in result.err
    published = datasets.load("out", split="train")
    clean = datasets.load("digits", split="train").stratified(300)
    assert torch.equal(published.labels, clean.labels)
    assert bool(
        Convolutions(kernel=3)
        .contains((clean.inputs(slice(None)) * 255).round() / 255, published.inputs(slice(None)))
        .all()
    )
    assert datasets.load("out").sha256 == datasets.load("digits").sha256
    training = "--model cnn --loss cross-entropy --epochs 1 --device cpu --out model"
    trained = invoke(f"train --data out {training}")
    assert trained.code == 0, trained.err
    evaluated = invoke("evaluate --model model --data out --n 4 --attacks fgsm --device cpu")
    assert evaluated.code == 0, evaluated.err


def test_the_key_is_nowhere_but_in_its_file(invoke: Invoke, place: Path) -> None:
    result = invoke(f"{MAKE} --n 100 --fraction 0.5")
    assert result.code == 0, result.err
    secret = bytes(range(32))
    for path in place.rglob("*"):
        if path.is_file() and path.name != "my.key":
            assert secret not in path.read_bytes()
            assert secret.hex().encode() not in path.read_bytes()
    assert secret.hex() not in result.out + result.err
    manifest = Manifest.read(place / "out")
    assert manifest.key == Key(secret).fingerprint
    assert manifest.changed == 50
    # What shows originals is not in the folder that is published, and nobody else can read it.
    assert {path.suffix for path in (place / "out").iterdir()} == {".json", ".safetensors"}
    assert (place / "out.private.html").stat().st_mode & 0o077 == 0


def test_a_key_that_is_not_there_is_made(invoke: Invoke, place: Path) -> None:
    result = invoke(MAKE.replace("my.key", "new.key") + " --n 100")
    assert result.code == 0, result.err
    assert "a new key" in result.err
    assert (place / "new.key").stat().st_mode & 0o777 == 0o600
    assert Manifest.read(place / "out").key == Key.read(place / "new.key").fingerprint


def test_a_key_that_others_can_read_is_told(invoke: Invoke, place: Path) -> None:
    (place / "my.key").chmod(0o644)
    result = invoke(f"{MAKE} --n 100")
    assert result.code == 0
    assert "chmod 600" in result.err


def test_doing_it_again_changes_nothing(invoke: Invoke, place: Path) -> None:
    assert invoke(f"{MAKE} --n 100").code == 0
    before = {path: path.stat().st_mtime_ns for path in (place / "out").iterdir()}
    (place / "out.private.html").unlink()
    result = invoke(f"{MAKE} --n 100")
    assert result.code == 0, result.err
    assert "already" in result.err
    assert {path: path.stat().st_mtime_ns for path in (place / "out").iterdir()} == before
    assert (place / "out.private.html").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--options p_b=0.1", "another options"),
        ("--kernel 5", "another threat"),
        ("--fraction 0.5", "another threat"),
        ("--seed 1", "another seed, clean"),
        ("--n 90", "another clean"),
        ("--key-file other.key", "made with the key"),
        ("--key-file nowhere.key", "no key file 'nowhere.key'"),
    ],
)
def test_another_set_is_never_written_over(
    more: str, said: str, invoke: Invoke, place: Path
) -> None:
    Key(bytes(32)).write(place / "other.key")
    assert invoke(f"{MAKE} --n 100").code == 0
    before = Manifest.read(place / "out")
    refused(invoke(f"{MAKE} --n 100 {more}"), said)
    assert Manifest.read(place / "out") == before
    assert not (place / "nowhere.key").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--kernel 4", "odd number"),
        ("--kernel 0", "odd number"),
        ("--kernel 65", "at most 63"),
        ("--kernel 3.5", "not a valid integer"),
        ("--fraction 1.5", "must lie in [0, 1]"),
        ("--fraction nan", "must lie in [0, 1]"),
        ("--eps 8/255", "no Lp ball"),
        ("--threat linf", "acts at training"),
        ("--threat unlearnable-linf", "works in convolution"),
        ("--threat unlearnable-linf --kernel 3", "has no kernel"),
        ("--method cude", "Did you mean cuda"),
        ("--options p_b=2", "must lie in [0, 1]"),
        ("--options p=2", "has no p. Allowed: p_b, rounding, legacy_seed"),
        ("--options p_b", "Write --options key=value"),
        ("--options legacy_seed=0", "one of the two"),
        ("--options key=00", "has no key"),
        ("--set epochs=3", "section.key=value"),
        ("--set trainer.epoch=3", "epoch"),
        ("--n 5", "no images of 5 of its 10 classes"),
        ("--n 0", "Ask for 1 to 1437"),
        ("--data digit", "Did you mean digits"),
        ("--data nowhere.npz", "no file or folder nowhere.npz"),
        ("--data table.csv", "of no kind that holds labelled images"),
        ("--data vectors.npz", "not understood"),
        ("--data samples:cifar10", "split"),
        ("--device tpu", "tpu"),
        ("--key-file out/my.key", "lies in --out"),
        ("--key-file table.csv", "no key file"),
        ("--key-file short.key", "64 bits"),
        ("--out table.csv", "holds something else"),
        ("--out full", "holds something else"),
        ("--out my.key/out", "may write to"),
    ],
)
def test_a_wrong_word_is_told_and_leaves_nothing(
    more: str, said: str, invoke: Invoke, place: Path
) -> None:
    (place / "table.csv").write_text("1,2,3\n")
    (place / "short.key").write_text("robustkit-key-1:0011223344556677\n")
    (place / "full").mkdir()
    (place / "full" / "file").touch()
    np.savez(place / "vectors.npz", inputs=np.zeros((20, 5), np.float32), labels=np.arange(20))
    before = sorted(place.rglob("*"))
    refused(invoke(f"{MAKE} {more}"), said)
    assert sorted(place.rglob("*")) == before


def test_no_secret_at_all_is_told(invoke: Invoke, place: Path) -> None:
    refused(invoke(MAKE.replace("--key-file my.key", "")), "give --key-file FILE")


def test_a_set_without_a_secret_says_so(invoke: Invoke, place: Path) -> None:
    words = MAKE.replace("--key-file my.key", "--options legacy_seed=0 --n 100")
    assert invoke(words).code == 0
    assert Manifest.read(place / "out").key is None
    assert "Anybody can undo this set" in (place / "out.private.html").read_text()


def test_no_permission_is_told(invoke: Invoke, place: Path, as_user: None) -> None:
    (place / "closed").mkdir(mode=0o500)
    refused(invoke(f"{MAKE} --n 100 --out closed/out"), "Permission denied")


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_a_full_disk_leaves_no_half_written_set(
    number: int, invoke: Invoke, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    real = os.fsync

    def full(file: int) -> None:
        calls.append(file)
        if len(calls) == number:
            raise OSError(28, "No space left on device")
        real(file)

    monkeypatch.setattr(os, "fsync", full)
    before = sorted(place.rglob("*"))
    refused(invoke(f"{MAKE} --n 100"), "No space left on device", code=4)
    assert sorted(place.rglob("*")) == before
    assert invoke(f"{MAKE} --n 100").code == 0


def test_an_interruption_leaves_no_half_written_set(
    invoke: Invoke, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("robustkit.unlearnable.releasing.distortion", stop)
    before = sorted(place.rglob("*"))
    assert invoke(f"{MAKE} --n 100").code == 130
    assert sorted(place.rglob("*")) == before


def test_a_method_that_leaves_its_threat_model_is_a_violation(
    invoke: Invoke, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = Entry(
        kind="unlearnable",
        name="cheat",
        target="tests.cli.test_unlearn_make:cheat",
        summary="x",
    )
    monkeypatch.setattr(registry, "_all", lambda: (*registry.BUILTIN, entry))
    before = sorted(place.rglob("*"))
    refused(invoke(f"{MAKE} --method cheat --n 100"), "left the set", code=3)
    assert sorted(place.rglob("*")) == before


def cheat() -> object:
    """A method that inverts every image."""
    from tests.unlearnable.test_releasing import Cheat, inverted

    return Cheat(inverted)


def test_originals_are_not_published_as_a_test_set(invoke: Invoke, place: Path) -> None:
    """An array file has no parts: it would be given as its own test set."""
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(place / "mine.npz", inputs=images, labels=np.arange(40) % 4)
    result = invoke(f"{MAKE} --data mine.npz --n 20")
    assert result.code == 0, result.err
    assert "no test images of its own" in result.err
    content = b"".join(path.read_bytes() for path in (place / "out").iterdir())
    assert images[0].tobytes() not in content
    assert [path.name.partition("-")[0] for path in (place / "out").glob("*.safetensors")] == [
        "train"
    ]


def test_a_warning_is_one_line_without_a_place_in_the_code(invoke: Invoke, place: Path) -> None:
    words = MAKE.replace("cuda", "em") + " --n 60 --options architecture=cnn"
    result = invoke(f"{words} --set trainer.epochs=1")
    assert result.code == 0, result.err
    told = [line for line in result.err.splitlines() if "Give it more epochs" in line]
    assert len(told) == 1
    assert told[0].startswith("Warning: The trainer ended when the model was still wrong on ")
    assert "em.py" not in result.err


def test_names_are_escaped_on_the_page_and_it_loads_nothing(invoke: Invoke, place: Path) -> None:
    for name in ("<script>alert(1)", "b&b"):
        (place / "mine" / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.random.default_rng(number).integers(0, 256, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / "mine" / name / f"{number}.png")
    assert invoke(f"{MAKE} --data mine").code == 0
    page = (place / "out.private.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "b&amp;b" in page
    assert "default-src &#39;none&#39;" in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert page.count("data:image/png") == 6
    shutil.rmtree(place / "mine")


def test_help_listing_and_show_know_it(invoke: Invoke) -> None:
    assert "--key-file" in invoke("unlearn make --help").out
    assert "cuda" in invoke("list unlearnable").out
    shown = invoke("show cuda").out
    assert "CVPR 2023" in shown
    assert "Differs from the reference" in shown
    assert "\n  p_b=0.3\n" in shown
    assert "key=" not in shown

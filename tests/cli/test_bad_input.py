"""Bad input: the right exit code, one clear message, no traceback, nothing lost."""

import errno
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.cli.conftest import Invoke, Result
from tests.evaluation.victims import robust_state


class Marker:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (os.mkdir, (str(self.path),))


def refused(result: Result, *words: str) -> None:
    assert result.code == 2, result.err
    assert result.out == ""
    assert "Traceback" not in result.err
    assert sum(line.startswith("Error: ") for line in result.err.splitlines()) == 1
    for word in words:
        assert word in result.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--eps -1", "not allowed"),
        ("--eps nan", "not allowed"),
        ("--eps 8/0", "divides by zero"),
        ("--eps abc", "is no number"),
        ("--eps ''", "is no number"),
        ("--eps-sweep 0.1,inf", "finite number"),
        ("--threat lnif", "Did you mean linf"),
        ("--threat nowhere.toml", "no threat model file"),
        ("--model builtin:cifar10-resnet19", "Did you mean builtin:cifar10-resnet18"),
        ("--model cn", "Did you mean cnn"),
        ("--model cnn", "an architecture without weights"),
        ("--model nowhere.py:make", "no file 'nowhere.py'"),
        ("--model nowhere/dir", "no model at"),
        ("--data digit", "Did you mean digits"),
        ("--data nowhere.npz", "nowhere.npz"),
        ("--data nowhere/", "nowhere"),
        ("--attacks pdg", "Did you mean pgd"),
        ("--attacks ''", "--attacks '' has an empty name between commas"),
        ("--attacks pgd,,fgsm", "has an empty name between commas"),
        ("--attacks pgd,", "has an empty name between commas"),
        ("--eps-sweep ,", "--eps-sweep ',' has an empty radius between commas"),
        ("--attacks foolbox", "needs the name"),
        ("--attacks foolbox:HopSkipJump", "Did you mean HopSkipJumpAttack"),
        ("--attacks autoattack:fast", "version"),
        ("--attacks pgd:fast", "no variants"),
        ("--options pgd.steps=5", "--options needs --attacks"),
        ("--attacks fgsm --options pgd.steps=5", "which --attacks does not"),
        ("--attacks pgd --options pgd.step=5", "no option step"),
        ("--attacks pgd --options pgd.steps=many", "must be a whole number"),
        ("--attacks pgd --options pgd.steps=0", "must be at least 1"),
        ("--attacks pgd --options pgd.steps", "Write attack.key=value"),
        ("--attacks pgd --options steps=5", "Write attack.key=value"),
        ("--attacks pgd --options =", "Write attack.key=value"),
        ("--access secret", "Use one of"),
        ("--goal anything", "Use untargeted"),
        ("--goal targeted:given", "Use untargeted"),
        ("--queries 0", "at least 1"),
        ("--queries -5", "at least 1"),
        ("--queries many", "not a valid integer"),
        ("--access decision --attacks fgsm", "needs gradient access, the threat grants decision"),
        ("--access score --attacks pgd", "pgd does not fit"),
        ("--goal targeted --attacks autoattack", "pursues untargeted goals, the threat's is"),
        ("--attacks foolbox:L2PGD", "foolbox:L2PGD does not fit"),
        ("--threat l1 --attacks foolbox:HopSkipJumpAttack", "it works in"),
        ("--device tpu", "Use auto, cpu, cuda or cuda:0"),
        ("--device cuda:x", "Use auto, cpu, cuda or cuda:0"),
        ("--device cuda:99", "CUDA devices were found"),
        ("--n 0", "Ask for 1 to 20"),
        ("--n 21", "Ask for 1 to 20"),
        ("--n -1", "Ask for 1 to 20"),
        ("--n 3.5", "not a valid integer"),
        ("--select last", "not one of"),
        ("--split nowhere", "split"),
        ("--size 0", "1 or more"),
        ("--batch-size 0", "must be at least 1"),
        ("--seed 99999999999999999999", "too large"),
        ("--about nowhere.toml", "no file"),
        ("--weights nowhere.pt", "no weights file"),
        ("--resume", "--resume needs --out"),
        ("--unknown", "No such option"),
        ("extra", "unexpected extra argument"),
    ],
)
def test_a_wrong_word_is_told(
    words: str,
    message: str,
    invoke: Invoke,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(invoke(f"evaluate {words}"), message)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_command_is_told(invoke: Invoke) -> None:
    refused(invoke("evaluat"), "No such command")
    refused(invoke("list nothing"), "not one of")
    refused(invoke("show pdg"), "Did you mean pgd")


def test_weights_that_do_not_fit_are_told(invoke: Invoke, tmp_path: Path) -> None:
    weights = tmp_path / "victim.safetensors"
    save_file(robust_state(), weights)
    words = f"evaluate --data digits --weights {weights} --model"
    refused(invoke(f"{words} cnn"), "do not fit the model CNN", "should be")
    refused(invoke(f"{words} resnet-8"), "do not fit the model ResNet", "missing")


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_a_pickle_is_never_run(name: str, writer: str, invoke: Invoke, tmp_path: Path) -> None:
    marker, weights = tmp_path / "marker", tmp_path / name
    if writer == "pickle":
        weights.write_bytes(pickle.dumps(Marker(marker)))
    else:
        torch.save({"state_dict": {"conv1.weight": Marker(marker)}}, weights)
    refused(invoke(f"evaluate --data digits --model cnn --weights {weights}"), name)
    assert not marker.exists()
    # The file does what it says where it is trusted: the proof above means something.
    if writer == "pickle":
        pickle.loads(weights.read_bytes())
        assert marker.exists()


@pytest.mark.parametrize("kind", ["empty", "truncated", "noise", "folder"])
def test_damaged_weights_are_told(kind: str, invoke: Invoke, tmp_path: Path) -> None:
    weights = tmp_path / "victim.safetensors"
    save_file(robust_state(), weights)
    content = weights.read_bytes()
    if kind == "folder":
        weights.unlink()
        weights.mkdir()
    else:
        cut = {"empty": b"", "truncated": content[: len(content) // 2], "noise": content[::-1]}
        weights.write_bytes(cut[kind])
    refused(invoke(f"evaluate --data digits --model cnn --weights {weights}"), "victim.safetensors")


def arrays(path: Path, **changes: Any) -> Path:  # noqa: ANN401
    inputs = np.random.default_rng(0).random((6, 1, 8, 8), dtype=np.float32)
    labels = np.arange(6)
    np.savez(path, **{"inputs": inputs, "labels": labels, **changes})
    return path


INPUTS = np.full((6, 1, 8, 8), 0.5, np.float32)
ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "above": ({"inputs": INPUTS + 0.6}, "outside [0, 1]"),
    "below": ({"inputs": INPUTS - 0.6}, "outside [0, 1]"),
    "nan": ({"inputs": INPUTS * np.nan}, "NaN"),
    "channels": ({"inputs": INPUTS.repeat(3, 1)}, "cannot take images of 3 x 8 x 8"),
    "none": ({"inputs": INPUTS[:0], "labels": np.arange(0)}, "empty"),
    "negative": ({"labels": np.arange(6) - 1}, "-1"),
    "large": ({"labels": np.arange(6) + 5}, "the label 10, but the model answers 10 classes"),
    "fractions": ({"labels": np.arange(6) / 2}, "labels or ids of type float64"),
    "lengths": ({"labels": np.arange(5)}, "one integer per image"),
    "objects": ({"labels": np.array([object()] * 6)}, "labels"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_images_and_labels_that_mean_nothing_are_told(
    name: str, victim: Path, invoke: Invoke, tmp_path: Path
) -> None:
    changes, message = ARRAYS[name]
    file = arrays(tmp_path / "set.npz", **changes)
    refused(invoke(f"evaluate --model {victim}:make --data {file}"), message)


@pytest.mark.parametrize("keep", [0, 100, 1000])
def test_a_truncated_set_is_told(keep: int, victim: Path, invoke: Invoke, tmp_path: Path) -> None:
    file = arrays(tmp_path / "set.npz")
    file.write_bytes(file.read_bytes()[:keep])
    refused(invoke(f"evaluate --model {victim}:make --data {file}"), "set.npz")


def test_code_that_fails_is_told(victim: Path, invoke: Invoke) -> None:
    words = f"evaluate --data digits --model {victim}"
    refused(invoke(f"{words}:broken"), "KeyError", "no such thing")
    refused(invoke(f"{words}:missing"), "has no 'missing'", "make")
    refused(invoke(f"{words}:FACTORY"), "FACTORY")


@pytest.mark.parametrize("text", ["name = 3", "nonsense = 'x'", "name = ", "\x00"])
def test_a_bad_description_is_told_before_anything_is_run(
    text: str, digits: str, invoke: Invoke, tmp_path: Path
) -> None:
    about = tmp_path / "about.toml"
    about.write_text(text)
    result = invoke(f"{digits} --n 4 --about {about} --out {tmp_path / 'run'}")
    refused(result, "about.toml")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["norm = 3", "[perturbation]\nnorm = 'l7'\nradius = 1", "= ="])
def test_a_bad_threat_file_is_told(text: str, invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "threat.toml"
    file.write_text(text)
    refused(invoke(f"evaluate --threat {file}"))


def test_a_file_as_out_is_told_and_left_alone(digits: str, invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    refused(invoke(f"{digits} --n 4 --out {file}"), "Choose another --out")
    refused(invoke(f"{digits} --n 4 --out {file}/below"), "Choose another --out")
    assert file.read_text() == "mine"


def test_a_foreign_run_is_refused_and_left_alone(
    digits: str, invoke: Invoke, tmp_path: Path
) -> None:
    words = f"{digits} --n 4 --attacks fgsm --out {tmp_path}"
    assert invoke(words).code == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    refused(invoke(words), "Add --resume")
    refused(invoke(f"{words} --resume --seed 1"), "it differs in seed")
    refused(invoke(f"{words} --resume --eps 0.1"), "it differs in threat")
    refused(invoke(f"{words} --resume --n 5"), "it differs in data, n")
    refused(invoke(f"{words} --resume --batch-size 3"), "it differs in batch size")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_no_permission_is_told(
    digits: str, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    refused(invoke(f"{digits} --n 4 --out {tmp_path / 'run'}"), "No permission to write")


@pytest.mark.usefixtures("as_user")
def test_a_folder_of_somebody_else_is_told(digits: str, invoke: Invoke, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    refused(invoke(f"{digits} --n 4 --out {tmp_path / 'run'}"), "No permission to write")
    refused(invoke(f"{digits} --n 4 --out {tmp_path}"), "No permission to write")


@pytest.mark.parametrize("name", ["/proc/robustkit", "x" * 300, "/dev/null/run"])
def test_a_place_where_nothing_can_be_written_is_told(
    name: str, digits: str, invoke: Invoke, tmp_path: Path
) -> None:
    refused(invoke(f"{digits} --n 4 --out {tmp_path / name}"), "Choose another --out")


def test_a_damaged_saved_model_is_told(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "robustkit.json").write_text(json.dumps({"format": 1}))
    refused(invoke(f"evaluate --data digits --model {tmp_path}"), "robustkit.json")
    (tmp_path / "robustkit.json").write_text("{")
    refused(invoke(f"evaluate --data digits --model {tmp_path}"), "robustkit.json")

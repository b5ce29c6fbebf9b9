"""The words of `--model`, and the user's own code."""

import os
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from robustkit import models
from robustkit.errors import BadInput, MissingFile, UnknownName
from robustkit.models import CNN, load, needs_weights


@pytest.mark.parametrize(
    ("spec", "near"),
    [
        ("resnet18", "Did you mean resnet-18"),
        ("CNN", "Did you mean cnn"),
        ("builtin:cifar10-resnet", "Did you mean builtin:cifar10-resnet18"),
        ("builtin:", "builtin:cifar10-resnet18"),
        ("", "path/file.py:factory"),
        ("nothing-like-it", "a directory that robustkit saved"),
        ("foolbox:ResNet18 x", "package.module:factory"),
    ],
)
def test_an_unknown_word_gets_the_near_ones(spec: str, near: str) -> None:
    with pytest.raises(UnknownName, match=near):
        load(spec)


@pytest.mark.parametrize("spec", ["ftp://localhost:8000", "file:///home/me/model.pt"])
def test_addresses_are_not_understood(spec: str) -> None:
    with pytest.raises(BadInput, match="addresses"):
        load(spec)


def test_paths_are_told_what_they_lack(tmp_path: Path) -> None:
    weights, code = tmp_path / "weights.pt", tmp_path / "code.py"
    torch.save(CNN().state_dict(), weights)
    code.touch()
    with pytest.raises(BadInput, match="--weights"):
        load(str(weights))
    with pytest.raises(BadInput, match=r"code\.py:factory"):
        load(str(code))
    with pytest.raises(MissingFile, match="no model at"):
        load(str(tmp_path / "nowhere"))
    with pytest.raises(MissingFile, match=r"robustkit\.json"):
        load(str(tmp_path))


def test_families_need_a_name_and_others_take_none() -> None:
    with pytest.raises(BadInput, match="torchvision:NAME"):
        load("torchvision")
    with pytest.raises(BadInput, match="asked for as cnn;"):
        load("cnn:small")


@pytest.mark.parametrize(
    ("spec", "needed"),
    [
        ("builtin:cifar10-resnet18", False),
        ("cnn", True),
        ("wrn-70-16", True),
        ("torchvision:resnet50", False),
        ("torchvision:resnet50@none", True),
        ("timm:resnet50", False),
        ("timm:resnet50@none", True),
        ("my/file.py:make", False),
        ("package.module:make", False),
        ("some/directory", False),
    ],
)
def test_untrained_architectures_need_weights(spec: str, needed: bool) -> None:
    assert needs_weights(spec) is needed


def test_a_model_is_on_its_device_and_in_eval_mode(device: torch.device) -> None:
    model = load("cnn", classes=7, channels=1, size=28, device=device)
    assert not any(module.training for module in model.modules())
    assert {tensor.device.type for tensor in model.state_dict().values()} == {device.type}
    assert model(torch.zeros(2, 1, 28, 28, device=device)).shape == (2, 7)


CODE = """
import torch
from dataclasses import dataclass
from beside import WIDTH
from robustkit.errors import BadInput

@dataclass
class Settings:
    width: int = WIDTH

class Net(torch.nn.Module):
    def __init__(self, classes=10, channels=3):
        super().__init__()
        self.linear = torch.nn.Linear(channels * Settings().width, classes)
        self.dropout = torch.nn.Dropout()
    def forward(self, inputs):
        return self.linear(self.dropout(inputs.mean((2, 3)).repeat(1, Settings().width)))

def plain():
    return Net()

def late():
    import beside_too
    return Net(beside_too.CLASSES)

def with_pretrained(*, pretrained, size=0):
    net = Net()
    net.notes = (pretrained, size)
    return net

model = Net(classes=6)
number = 3

def wrong():
    return {"a": 1}

def none():
    return None

def broken():
    return [][1]

def leaving():
    raise SystemExit("bye")

def ours():
    raise BadInput("mine")

def greedy(colour):
    return Net()
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A user's file and what it imports from its own folder."""
    (tmp_path / "beside.py").write_text("WIDTH = 2\n")
    (tmp_path / "beside_too.py").write_text("CLASSES = 5\n")
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "inner.py").write_text("from robustkit.models import CNN as make\n")
    return tmp_path / "mine.py"


@pytest.mark.parametrize(
    ("factory", "classes", "given", "outputs"),
    [
        ("plain", None, None, 10),
        ("plain", 4, 3, 10),
        ("late", None, None, 5),
        ("model", None, None, 6),
        ("Net", 4, None, 4),
        ("Net", None, None, 10),
    ],
)
def test_a_file_makes_a_model(
    code: Path,
    images: Tensor,
    factory: str,
    classes: int | None,
    given: int | None,
    outputs: int,
) -> None:
    path = list(sys.path)
    model = load(f"{code}:{factory}", classes=classes, channels=given)
    assert model(images).shape == (len(images), outputs)
    assert not any(module.training for module in model.modules())
    assert sys.path == path


def test_a_relative_path_and_a_module_of_the_working_directory(
    code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(code.parent)
    assert isinstance(load("mine.py:plain"), nn.Module)
    assert isinstance(load("package.inner:make", classes=3), CNN)


def test_a_factory_hears_whether_weights_follow(code: Path, tmp_path: Path) -> None:
    weights = tmp_path / "net.pt"
    torch.save(load(f"{code}:plain").state_dict(), weights)
    assert load(f"{code}:with_pretrained", size=9).notes == (True, 9)
    assert load(f"{code}:with_pretrained", weights=weights).notes == (False, 0)


def test_new_weights_of_a_users_model_follow_the_seed(code: Path) -> None:
    first, again, other = (load(f"{code}:plain", seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(first["linear.weight"], again["linear.weight"])
    assert not torch.equal(first["linear.weight"], other["linear.weight"])


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("wrong", "gave back a dict; a factory must return a torch.nn.Module"),
        ("none", "gave back a NoneType"),
        ("number", "is an int, not a function"),
        ("absent", "has no 'absent'. It has: Net, Settings, broken"),
        ("broken", r"IndexError: list index out of range \(mine.py, line 4\d\)"),
        ("leaving", "SystemExit: bye"),
        ("ours", "^mine$"),
        ("greedy", "missing 1 required positional argument: 'colour'"),
    ],
)
def test_what_goes_wrong_in_a_users_code_is_reported(code: Path, factory: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        load(f"{code}:{factory}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def make(:\n", "SyntaxError"),
        ("import nothing_of_the_kind\n", "No module named 'nothing_of_the_kind'"),
        ("1 / 0\n", r"ZeroDivisionError: division by zero \(bad.py, line 1\)"),
    ],
)
def test_a_file_that_cannot_be_imported_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str
) -> None:
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(BadInput, match=words):
        load(f"{tmp_path / 'bad.py'}:make")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=words.replace("bad.py", "bad.py")):
        load("bad:make")


def test_missing_files_and_modules_are_reported(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"absent\.py"):
        load(f"{tmp_path / 'absent.py'}:make")
    for spec in ("absent_package:make", "absent_package.inner:make", "os.absent:make"):
        with pytest.raises(BadInput, match="absent"):
            load(spec)


def test_the_exports_are_complete_and_lazy() -> None:
    for name in models.__all__:
        assert getattr(models, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        models.nothing  # noqa: B018
    code = "import robustkit.models, sys; sys.exit('torch' in sys.modules)"
    assert os.spawnl(os.P_WAIT, sys.executable, sys.executable, "-c", code) == 0

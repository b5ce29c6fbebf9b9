"""What the tests of the command line share."""

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import save_file

from robustkit.cli import run
from tests.evaluation.victims import robust_state

FACTORY = """
from pathlib import Path

from safetensors.torch import load_file

from robustkit.models.cnn import CNN


def make():
    model = CNN(classes=10, channels=1, width=8)
    model.load_state_dict(load_file(Path(__file__).with_name("victim.safetensors")))
    return model


def untrained():
    return CNN(classes=10, channels=1, width=8)


def broken():
    raise KeyError("no such thing")
"""


@dataclass(frozen=True)
class Result:
    """What a command printed and returned."""

    code: int
    out: str
    err: str


Invoke = Callable[..., Result]


@pytest.fixture(scope="session")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose `make` gives a robustly trained classifier of digits."""
    folder = tmp_path_factory.mktemp("victim")
    save_file(robust_state(), folder / "victim.safetensors")
    (folder / "victim.py").write_text(FACTORY)
    return folder / "victim.py"


@pytest.fixture
def invoke(capfd: pytest.CaptureFixture[str]) -> Invoke:
    """Runs a command line in this process."""

    def call(words: str, *more: str) -> Result:
        capfd.readouterr()
        code = run([*shlex.split(words), *more])
        printed = capfd.readouterr()
        return Result(code, printed.out, printed.err)

    return call


@pytest.fixture
def digits(victim: Path) -> str:
    """The words that evaluate the classifier of digits at a radius that fits it."""
    return f"evaluate --model {victim}:make --data digits --eps 0.2"


@pytest.fixture
def as_user() -> None:
    """Skips where permissions mean nothing."""
    if os.geteuid() == 0:
        pytest.skip("the superuser may write everywhere")

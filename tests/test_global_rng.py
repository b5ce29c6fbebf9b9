"""The watch over the global generators sees what the package does, not what a test does."""

import random
from collections.abc import Callable, Iterator
from types import ModuleType

import numpy as np
import pytest
import torch

from tests.global_rng import watch

PACKAGE_CODE = """
import random
import numpy
import torch

def torch_draw():
    torch.rand(3)

def torch_seed():
    torch.manual_seed(0)

def torch_layer():
    torch.nn.Linear(2, 2)

def numpy_draw():
    numpy.random.rand()

def random_draw():
    random.random()

def forked():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.rand(3)
"""


@pytest.fixture
def package() -> ModuleType:
    """A module as it would be if it lay in the package."""
    module = ModuleType("robustkit.careless")
    exec(compile(PACKAGE_CODE, "/robustkit/careless.py", "exec"), vars(module))
    return module


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """These tests spoil the global states on purpose."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    yield
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    random.setstate(states[2])


@pytest.mark.parametrize(
    ("act", "guilty"),
    [
        ("torch_draw", ["torch"]),
        ("torch_seed", ["torch"]),
        ("torch_layer", ["torch"]),
        ("numpy_draw", ["numpy"]),
        ("random_draw", ["random"]),
        ("forked", []),
    ],
)
def test_what_the_package_draws_is_seen(package: ModuleType, act: str, guilty: list[str]) -> None:
    with watch() as changed:
        torch.nn.Linear(2, 2)
        getattr(package, act)()
    assert changed() == guilty


def _layer() -> None:
    torch.nn.Linear(2, 2)


def _forked() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        torch.randn(2)


@pytest.mark.parametrize("act", [_layer, _forked, lambda: torch.zeros(2).uniform_()])
def test_what_a_test_draws_is_allowed(act: Callable[[], object]) -> None:
    with watch() as changed:
        act()
        torch.rand(2)
    assert changed() == []


def test_a_draw_by_the_package_is_seen_among_draws_by_the_test(package: ModuleType) -> None:
    with watch() as changed:
        torch.rand(2)
        package.torch_draw()
        torch.rand(2)
    assert changed() == ["torch"]

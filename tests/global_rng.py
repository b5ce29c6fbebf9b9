"""Tells whether anything but a test itself changed a global random state.

The package draws from streams of its own, never from a global generator. A test may draw from
torch's, to make a network or an input: such draws are recognised by the file they are made in, and
the state they leave is accepted. States that were there before are accepted too, so that whatever
forks the generator and restores it passes.
"""

import functools
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

TESTS = str(Path(__file__).parent)

# Where torch draws from, or sets, its global generator. In-place methods serve `torch.nn.init` too.
DRAWS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (
        torch,
        (
            "bernoulli",
            "manual_seed",
            "multinomial",
            "normal",
            "rand",
            "rand_like",
            "randint",
            "randint_like",
            "randn",
            "randn_like",
            "randperm",
            "seed",
            "set_rng_state",
        ),
    ),
    (torch.Tensor, ("bernoulli_", "exponential_", "normal_", "random_", "uniform_")),
    (torch.nn.functional, ("dropout", "dropout2d")),
)


@contextmanager
def watch() -> Iterator[Callable[[], list[str]]]:
    """Watch the global generators; the value, called afterwards, names those that were changed."""
    before = _numpy_state(), random.getstate()
    accepted = {_torch_state()}
    with pytest.MonkeyPatch.context() as patch:
        for owner, names in DRAWS:
            for name in names:
                patch.setattr(owner, name, _accepting(getattr(owner, name), accepted))

        def changed() -> list[str]:
            found = {
                "torch": _torch_state() not in accepted,
                "numpy": _numpy_state() != before[0],
                "random": random.getstate() != before[1],
            }
            return [name for name, guilty in found.items() if guilty]

        yield changed


def _accepting(draw: Callable[..., Any], accepted: set[bytes]) -> Callable[..., Any]:
    """`draw`, whose resulting state is accepted when a test makes it from an accepted one."""

    @functools.wraps(draw)
    def wrapper(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - stands for any function of torch
        mine = _called_by_a_test() and _torch_state() in accepted
        result = draw(*args, **kwargs)
        if mine:
            accepted.add(_torch_state())
        return result

    return wrapper


def _called_by_a_test() -> bool:
    """Whether the nearest caller outside torch and this file is a test or a docstring's example."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_globals["__name__"].startswith(("torch", __name__)):
        frame = frame.f_back
    return frame.f_code.co_filename.startswith((TESTS, "<doctest "))


def _torch_state() -> bytes:
    return torch.get_rng_state().numpy().tobytes()


def _numpy_state() -> tuple[bytes, int]:
    state = np.random.get_state(legacy=False)  # noqa: NPY002 - the global one is what is watched
    return state["state"]["key"].tobytes(), state["state"]["pos"]

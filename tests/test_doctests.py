"""Every example in a docstring runs and gives what it says."""

import doctest
import importlib
import pkgutil
from collections.abc import Iterator

import pytest

import robustkit

# The adapters' imports take seconds, and what they adapt need not be importable.
SKIPPED = {"robustkit.__main__", "robustkit.attacks.autoattack", "robustkit.attacks.foolbox"}


def modules() -> Iterator[str]:
    yield "robustkit"
    for module in pkgutil.walk_packages(robustkit.__path__, "robustkit."):
        if module.name not in SKIPPED:
            yield module.name


@pytest.mark.parametrize("name", list(modules()))
def test_examples_in_docstrings_hold(name: str) -> None:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.testmod(importlib.import_module(name), optionflags=flags).failed == 0

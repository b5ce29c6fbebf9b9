"""Packages that import their parts on first use, and only under their own name."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def exports(
    package: str, places: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """The hooks `__getattr__`, `__dir__` and `__all__` of a package.

    Args:
        package: The package's `__name__`.
        places: For every public name the submodule that defines it, relative to the package.

    Raises:
        ImportError: The package is being imported under a name outside `robustkit`.
    """
    if package.partition(".")[0] != "robustkit":
        # The families lie at the repository's root, where Python finds them under a short name too.
        raise ImportError(
            f"Import robustkit.{package}, not {package}: a second copy of every class would exist."
        )

    def load(name: str) -> Any:  # noqa: ANN401 - a package exports things of any kind
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{places[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *places})

    return load, names, sorted(places)

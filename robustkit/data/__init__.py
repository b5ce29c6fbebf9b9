"""Labelled images by name or by path: `load("samples:cifar10")`, `load("folder/of/classes")`."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robustkit.data.computing import computed
    from robustkit.data.labelled_images import LabelledImages
    from robustkit.data.loading import Request, load
    from robustkit.data.saved import save

__all__ = ["LabelledImages", "Request", "computed", "load", "save"]

_HOMES = {
    "LabelledImages": "robustkit.data.labelled_images",
    "Request": "robustkit.data.loading",
    "computed": "robustkit.data.computing",
    "load": "robustkit.data.loading",
    "save": "robustkit.data.saved",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)

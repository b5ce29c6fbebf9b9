"""Classifiers by name or path, their weights, and what identifies them.

`load` understands the words of the command line's `--model`; `save` writes a directory that `load`
gives back bit for bit. The own architectures take any image size and number of channels.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustkit.models.cnn import CNN
    from robustkit.models.identity import fingerprint, labels_only, parameter_count
    from robustkit.models.layers import Normalize, Normalized
    from robustkit.models.loading import load, needs_weights
    from robustkit.models.preact import PreActResNet
    from robustkit.models.resnet import ResNet
    from robustkit.models.saved import read_record, rebuild, recipe, save

__all__ = [
    "CNN",
    "Normalize",
    "Normalized",
    "PreActResNet",
    "ResNet",
    "fingerprint",
    "labels_only",
    "load",
    "needs_weights",
    "parameter_count",
    "read_record",
    "rebuild",
    "recipe",
    "save",
]

_HOMES = {
    "CNN": "cnn",
    "Normalize": "layers",
    "Normalized": "layers",
    "PreActResNet": "preact",
    "ResNet": "resnet",
    "fingerprint": "identity",
    "labels_only": "identity",
    "load": "loading",
    "needs_weights": "loading",
    "parameter_count": "identity",
    "read_record": "saved",
    "rebuild": "saved",
    "recipe": "saved",
    "save": "saved",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - exports of any kind
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

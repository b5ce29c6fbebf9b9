"""What a training was asked to do, as JSON: what makes two runs the same run."""

import dataclasses
import hashlib
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robustkit.models import fingerprint


def describe(value: object) -> Any:  # noqa: ANN401 - JSON
    """A value as JSON: dataclasses with all their fields, models and tensors by their content.

    Example:
        >>> from robustkit.training.optimizers import SGD
        >>> describe(SGD(lr=0.5))["lr"]
        0.5
    """
    if isinstance(value, Enum):  # before numbers: an IntEnum is one too
        return value.name.lower()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, nn.Module):
        return {"type": type(value).__qualname__, "sha256": fingerprint(value)}
    if isinstance(value, Tensor):
        return hashlib.sha256(value.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {
            "type": type(value).__qualname__,
            **{name: describe(field) for name, field in fields.items()},
        }
    if isinstance(value, Mapping):
        return {str(key): describe(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [describe(part) for part in value]
    if isinstance(value, Path):
        return str(value)
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}:{value.__qualname__}"
    return repr(value)

"""What a training was asked to do, as JSON: what makes two runs the same run."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from robustkit.data import LabelledImages
from robustkit.models import fingerprint
from robustkit.training.losses.base import Loss
from robustkit.training.mixing import Pool

if TYPE_CHECKING:
    from robustkit.training.trainer import Trainer


# What changes nothing in the weights, or only how fast they come.
_NOT_IDENTITY = frozenset(
    {"max_steps", "out", "resume", "checkpoint_steps", "tensorboard", "progress", "runtime"}
)


def identity(
    trainer: "Trainer",
    model: nn.Module,
    loss: Loss,
    parameters: Iterable[str],
    *,
    data: LabelledImages,
    pool: Pool,
) -> dict[str, Any]:
    """What makes two runs the same run, as JSON.

    Args:
        trainer: What to do.
        model: As it is before the first step.
        loss: What is lowered.
        parameters: The names of those to be changed.
        data: What is learnt from and held out; all of it is read.
        pool: What is learnt from; extra examples are read too.
    """
    settings = describe(trainer)
    extra = pool.extra
    return {
        **{name: value for name, value in settings.items() if name not in _NOT_IDENTITY},
        "dtype": trainer.runtime.dtype,
        "loss": describe(loss),
        "data": {"sha256": data.sha256, "ids": describe(data.ids), "n": len(data)},
        "extra": None if extra is None else {**extra.record(), "spec": None},
        "model": fingerprint(model),
        "parameters": sorted(parameters),
    }


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

"""What is evaluated, as a caller gives it: a model, images, a device."""

from pathlib import Path

import torch
from torch import Tensor, nn

from robustkit import data as datasets
from robustkit import models
from robustkit.data import LabelledImages
from robustkit.errors import BadInput
from robustkit.evaluation.records import Records

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def as_images(data: LabelledImages | tuple[Tensor, Tensor] | str, seed: int) -> LabelledImages:
    """Labelled images, from words or an (inputs, labels) pair too.

    Raises:
        BadInput: There are none, or no such words are known.
    """
    if isinstance(data, str):
        return datasets.load(data, seed=seed)
    if isinstance(data, tuple):
        return LabelledImages.from_tensors(*data)
    if not len(data):
        raise BadInput("The data holds no examples; at least one is needed.")
    return data


def as_device(model: nn.Module | str, device: torch.device | str | None) -> torch.device:
    """The device asked for; otherwise where the model is, and for words a GPU if there is one.

    It is named as tensors on it name it: `cuda` is the current GPU.

    Raises:
        BadInput: There is no such device.
    """
    if device is None and isinstance(model, nn.Module):
        tensors = (*model.parameters(), *model.buffers())
        return next((tensor.device for tensor in tensors), torch.device("cpu"))
    wanted = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(wanted)
    except RuntimeError as error:
        raise BadInput(f"The device {wanted!r} is unknown. Use cpu, cuda or cuda:0.") from error
    if chosen.type == "cuda" and chosen.index is None:
        return torch.empty(0, device=chosen).device
    return chosen


def as_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """The type to search in; by default bfloat16 on a GPU that has it.

    Raises:
        BadInput: The name is unknown.
    """
    if name is None:
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    if name not in _DTYPES:
        raise BadInput(f"The type {name!r} is unknown. Use one of: {', '.join(_DTYPES)}.")
    return _DTYPES[name]


def as_model(model: nn.Module | str, device: torch.device) -> nn.Module:
    """A model on the device, from words too.

    Raises:
        BadInput: No such words are known, or the model is somewhere else.
    """
    if isinstance(model, str):
        return models.load(model, device=device)
    if any(tensor.device != device for tensor in (*model.parameters(), *model.buffers())):
        raise BadInput(
            f"The model is not on {device}. Move it there first: model.to({str(device)!r})."
        )
    return model


def named(model: nn.Module | str, name: str | None) -> str:
    """What the report calls a model: the name given, else its words or its class."""
    return name or (model if isinstance(model, str) else type(model).__qualname__)


def as_width(out: Path | None, batch_size: int | None) -> int | None:
    """The batch width asked for, otherwise that of the run to be resumed.

    Raises:
        BadInput: It is below 1.
    """
    if batch_size is not None and batch_size < 1:
        raise BadInput(f"The batch size is {batch_size}; it must be at least 1.")
    return batch_size or (None if out is None else Records.width(out))

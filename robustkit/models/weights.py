"""Weights from files that may come from strangers: read without running code, fitted by name."""

import pickletools
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from robustkit.errors import BadInput, CorruptFile, MissingFile, WeightsMismatch
from robustkit.models.layers import Normalized

CONTAINERS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
_SHOWN = 3
_REFUSED = re.compile(r"unsupported global:? (?:global )?([\w.]+)", re.IGNORECASE)


def read(file: Path) -> dict[str, Tensor]:
    """The named tensors of a weights file, on the CPU.

    `.safetensors` files and files of `torch.save` are understood. The latter are read with
    `weights_only=True`: a pickle that holds anything but tensors and plain values is refused, and
    nothing in it runs. Of a checkpoint, the first of the entries in `CONTAINERS` is taken.

    Args:
        file: What to read.

    Raises:
        MissingFile: There is no such file.
        BadInput: It is a folder, cannot be opened, or needs code to run.
        CorruptFile: It is neither of the two formats, is damaged, or holds no weights.
    """
    if not file.exists():
        raise MissingFile(f"There is no weights file {str(file)!r}.")
    if not file.is_file():
        raise BadInput(
            f"{str(file)!r} is not a file; give a .safetensors file or one of torch.save."
        )
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise BadInput(f"The weights file {str(file)!r} cannot be opened: {error}.") from error
    content = _safetensors(file) if file.suffix == ".safetensors" else _torch_file(file)
    return _state_dict(content, file)


def fit(model: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Load named tensors into a model, in place.

    Names that fit are taken as they stand. Otherwise a prefix of `PREFIXES` that all names share,
    as left by DataParallel, torch.compile and others, is removed, again and again until they fit.
    Behind a `Normalize` layer, weights without a normalisation of their own go to the inner model.

    Args:
        model: Gets the weights. After an error it may hold some of them.
        tensors: Its parameters and buffers, by name.
        source: Where they come from, for messages.

    Raises:
        WeightsMismatch: Names or shapes differ; the message has the first few of each.
    """
    tensors = _without_prefix(tensors, model.state_dict())
    target = model
    if isinstance(model, Normalized) and "normalize.mean" not in tensors:
        target = model.model
        tensors = _without_prefix(tensors, target.state_dict())
    try:
        target.load_state_dict(dict(tensors), strict=True)
    except RuntimeError as error:
        reason = _difference(tensors, target.state_dict()) or str(error)
        raise WeightsMismatch(
            f"The weights in {source!r} do not fit the model {type(target).__name__}: {reason}. "
            "Check the architecture, the number of classes and of channels."
        ) from error


def _safetensors(file: Path) -> object:
    try:
        return safetensors.torch.load_file(file)
    except Exception as error:
        raise CorruptFile(
            f"{str(file)!r} is no readable safetensors file: {first_line(error)}. "
            "It may be truncated; fetch or write it again."
        ) from error


def _torch_file(file: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the unpickler raise nearly anything
        named = _code_in(file, error)
        if named:
            raise BadInput(
                f"{str(file)!r} holds more than tensors: it names {named}. Loading that could "
                "run code: it was refused, nothing was run. Give a file of the tensors alone: "
                "`model.state_dict()`, written with safetensors or torch.save."
            ) from error
        raise CorruptFile(
            f"{str(file)!r} is no readable weights file ({first_line(error)}). It is neither "
            "safetensors nor a file of torch.save with tensors only, or it is truncated."
        ) from error


def _code_in(file: Path, error: Exception) -> str:
    """What of Python a refused file names, found without unpickling it; empty if nothing."""
    refused = _REFUSED.search(str(error))
    if refused:
        return refused[1]
    found: list[str] = []
    strings: list[str] = []
    try:
        with file.open("rb") as stream:
            for code, argument, _ in pickletools.genops(stream):
                if isinstance(argument, str):
                    strings.append(argument)
                if code.name in ("GLOBAL", "INST"):
                    found.append(str(argument).replace(" ", "."))
                elif code.name == "STACK_GLOBAL":
                    found.append(".".join(strings[-2:]))
    except Exception:  # no pickle, or a damaged one
        return ""
    return found[0] if found else ""


def first_line(error: Exception) -> str:
    """What an error of another library says, in one line, without torch's advice to run code."""
    if "weights_only" in str(error):
        return type(error).__name__
    text = (str(error).splitlines() or [""])[0].strip().rstrip(".")
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def _state_dict(content: object, file: Path) -> dict[str, Tensor]:
    """The tensors by name inside `content`, at most three containers deep."""
    for _ in range(len(CONTAINERS)):
        if not isinstance(content, Mapping):
            break
        # What torch.optim.swa_utils.AveragedModel counts is no weight.
        named = {str(key): value for key, value in content.items() if key != "n_averaged"}
        if named and all(isinstance(value, Tensor) for value in named.values()):
            return named
        content = next((named[key] for key in CONTAINERS if key in named), None)
    raise CorruptFile(
        f"{str(file)!r} holds no weights: expected tensors by name, bare or under one of "
        f"{', '.join(CONTAINERS)}."
    )


def _without_prefix(tensors: Mapping[str, Tensor], wanted: Iterable[str]) -> Mapping[str, Tensor]:
    names = set(wanted)
    while tensors and names.isdisjoint(tensors):
        prefix = next((p for p in PREFIXES if all(key.startswith(p) for key in tensors)), None)
        if prefix is None:
            break
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _difference(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """What differs, in words; empty where names and shapes agree."""
    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    reshaped = [
        f"{name} is {tuple(given[name].shape)} and should be {tuple(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    parts = (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
    return "; ".join(f"{len(names)} {what} ({_few(names)})" for what, names in parts if names)


def _few(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")

"""Directories that hold a model: its weights and what builds it.

`robustkit.json` names an entry of the registry and the arguments it was built with; the weights lie
beside it in safetensors, under a name made from their content, so that the description is replaced
last and a run that is stopped leaves either the old model or the new one.
"""

import contextlib
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import safetensors.torch
from torch import Tensor, nn

from robustkit import registry
from robustkit.errors import BadInput, CorruptFile, MissingFile
from robustkit.files import write_atomically
from robustkit.models.factories import call
from robustkit.models.layers import seeded
from robustkit.models.weights import fit, read

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"

DESCRIPTION = "robustkit.json"
FORMAT = 1
_CODE = "code"
_WEIGHTS = f"model-{'[0-9a-f]' * 16}.safetensors"


def save(
    model: nn.Module,
    directory: Path,
    *,
    spec: str,
    arguments: Mapping[str, JSON],
    about: Mapping[str, JSON] | None = None,
) -> None:
    """Write a model so that `load(str(directory))` gives it back, bit for bit.

    A model already there is replaced at once or not at all; other files are left alone.

    Args:
        model: What to write: its parameters and persistent buffers.
        directory: Made if it is not there.
        spec: What the model was built from: any word that `load` takes, or `KIND:NAME` for a
            registry entry of another kind, such as a defense.
        arguments: Given to that entry to build the model again, see `rebuild`. They are kept for
            `path/file.py:factory` and `package.module:factory` too, but loading the directory will
            never run that code: `load(spec, weights=directory)` does.
        about: Anything worth knowing: paper, training data, accuracy. Kept as it is.

    Raises:
        BadInput: The arguments are no JSON, the state holds more than tensors, or writing is not
            allowed there.
        CannotWrite: The disk is full or failed; what was there before is intact.
    """
    content = safetensors.torch.save(_state(model))
    digest = hashlib.sha256(content).hexdigest()
    file = f"model-{digest[:16]}.safetensors"
    description = {
        "robustkit": importlib.metadata.version("robustkit"),
        "format": FORMAT,
        **recipe(spec, arguments),
        "weights": file,
        "sha256": digest,
        "about": dict(about or {}),
    }
    try:
        text = json.dumps(description, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadInput(f"The model's arguments or description are no JSON: {error}.") from error
    write_atomically(directory / file, content)
    write_atomically(directory / DESCRIPTION, text + "\n")
    for old in set(directory.glob(_WEIGHTS)) - {directory / file}:
        with contextlib.suppress(OSError):
            old.unlink()


def recipe(spec: str, arguments: Mapping[str, JSON]) -> dict[str, JSON]:
    """What builds a model again: `kind`, `entry` and `arguments`, ready for JSON.

    Args:
        spec: As for `save`. That of a saved directory gives its own recipe, changed by `arguments`.
        arguments: Given to the entry, see `rebuild`.
    """
    if Path(spec, DESCRIPTION).is_file():
        record = read_record(Path(spec))
        old = cast("Mapping[str, JSON]", record["arguments"])
        return {"kind": record["kind"], "entry": record["entry"], "arguments": {**old, **arguments}}
    if spec in registry.entries("models"):
        return {"kind": "models", "entry": spec, "arguments": dict(arguments)}
    left, _, right = spec.partition(":")
    if left in registry.entries("models"):
        name = right.removesuffix("@none")
        return {"kind": "models", "entry": left, "arguments": {"name": name, **arguments}}
    if left in registry.KINDS:
        return {"kind": left, "entry": registry.find(left, right).name, "arguments": {**arguments}}
    return {"kind": _CODE, "entry": spec, "arguments": dict(arguments)}


def rebuild(made: Mapping[str, JSON]) -> nn.Module:
    """Build what a recipe describes, in its structure; its weights are still to be loaded.

    The entry's target is called with the arguments by keyword; if it has an attribute `rebuild`,
    such as a classmethod of a defense, that is called in its place. `pretrained=False` is added for
    those that have such a parameter. A model made of other models keeps their recipes among its
    arguments and calls this function for each.

    Args:
        made: `kind`, `entry` and `arguments`, as `recipe` gives them.

    Raises:
        UnknownName: There is no such entry.
        BadInput: It needs the user's code, which a file never starts.
        CorruptFile: The arguments do not fit the entry.
    """
    kind, entry = str(made["kind"]), str(made["entry"])
    if kind == _CODE:
        raise BadInput(
            f"The code of {entry!r} built this model, and loading a directory never runs code. "
            f"Give both: --model {entry} and the directory as --weights."
        )
    target = registry.find(kind, entry).load()
    arguments = {**cast("Mapping[str, JSON]", made["arguments"]), "pretrained": False}
    try:
        with seeded(0):  # new weights, which the saved ones replace
            model = call(getattr(target, "rebuild", target), arguments)
    except (TypeError, KeyError) as error:
        raise CorruptFile(
            f"The arguments of the saved model do not fit {entry!r}: {error}."
        ) from error
    if not isinstance(model, nn.Module):
        raise BadInput(f"{kind}:{entry} is no model: it gives a {type(model).__name__}.")
    return model


def read_record(directory: Path) -> Mapping[str, JSON]:
    """The contents of a saved model's `robustkit.json`, `about` among them, checked.

    Raises:
        MissingFile: There is none.
        CorruptFile: It is no JSON, or something is missing in it.
        BadInput: It describes no model, or comes from a newer version.
    """
    file = directory / DESCRIPTION
    try:
        record: Any = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingFile(
            f"{str(directory)!r} is no saved model: there is no {DESCRIPTION} in it."
        ) from error
    except OSError as error:
        raise BadInput(f"{str(file)!r} cannot be read: {error}.") from error
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{str(file)!r} is no readable JSON: {error}.") from error
    _check(record, file)
    return cast("Mapping[str, JSON]", record)


def weights_file(directory: Path) -> Path:
    """The weights of a saved model, checked against the hash in its description.

    Raises:
        MissingFile: They are not there.
        CorruptFile: They are not the ones that were written.
    """
    record = read_record(directory)
    file = directory / str(record["weights"])
    if not file.is_file():
        raise MissingFile(f"{str(directory)!r} has lost its weights file {file.name!r}.")
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != record["sha256"]:
        raise CorruptFile(
            f"{str(file)!r} is not what was saved: its SHA-256 differs. Copy it again."
        )
    return file


def from_directory(directory: Path, *, with_weights: bool) -> nn.Module:
    """The model that `save` wrote, on the CPU.

    Args:
        directory: Where it lies.
        with_weights: False where other weights will be loaded into it.

    Raises:
        BadInput: Any of the errors of `read_record`, `rebuild`, `weights_file` and `fit`.
    """
    model = rebuild(read_record(directory))
    if with_weights:
        fit(model, read(weights_file(directory)), source=str(directory))
    return model


def _check(record: object, file: Path) -> None:
    words = {"kind": str, "entry": str, "arguments": dict, "weights": str, "sha256": str}
    if not isinstance(record, dict) or not isinstance(record.get("format"), int):
        raise CorruptFile(f"{str(file)!r} is not a description that robustkit wrote.")
    if record["format"] > FORMAT:
        raise BadInput(
            f"{str(file)!r} has format {record['format']}, and this version of robustkit reads up "
            f"to {FORMAT}; upgrade it."
        )
    if record.get("kind") == "data":
        raise BadInput(f"{str(file.parent)!r} holds data, not a model; give it as --data.")
    wrong = [key for key, kind in words.items() if not isinstance(record.get(key), kind)]
    if wrong:
        raise CorruptFile(f"{str(file)!r} lacks a valid {', '.join(wrong)}.")
    if Path(record["weights"]).name != record["weights"]:
        raise CorruptFile(f"{str(file)!r} names weights outside its own folder.")


def _state(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    wrong = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if wrong:
        raise BadInput(
            f"The model's state holds more than tensors, and cannot be saved: {wrong[0]}."
        )
    # Shared tensors are written once per name.
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}

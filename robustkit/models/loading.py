"""From the word of the command line to a model."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import nn

from robustkit import registry
from robustkit.errors import BadInput, MissingFile, UnknownName
from robustkit.models.factories import accepts, call, from_code
from robustkit.models.layers import seeded
from robustkit.models.saved import from_directory, weights_file
from robustkit.models.weights import fit, read

FORMS = (
    "path/file.py:factory",
    "package.module:factory",
    "a directory that robustkit saved",
)


def load(
    spec: str,
    *,
    weights: Path | None = None,
    classes: int | None = None,
    channels: int | None = None,
    size: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """A classifier in eval mode: (N, C, H, W) images in [0, 1] to (N, K) logits.

    Args:
        spec: A registered name (`resnet-18`, `builtin:cifar10-resnet18`), `torchvision:NAME`,
            `timm:NAME`, `robustbench:NAME` (untrained with `@none` behind them), a directory that
            `save` wrote, `path/file.py:factory` or `package.module:factory`, which run that code,
            or `http://host:port`, a deployed classifier that is asked for labels.
        weights: A `.safetensors` file, a file of `torch.save` with tensors only, or a directory
            that `save` wrote. None: the weights that the model comes with; own architectures then
            get new ones (see `needs_weights`).
        classes: Number of logits, for what can be built with any.
        channels: Channels of the images, likewise.
        size: Side of the images in pixels, for architectures made for one size; the own ones take
            any.
        seed: Of new weights. The same seed gives the same weights, whatever was drawn before;
            torch's global generator starts from it for the user's code too, and is restored.
        device: Where to put it.

    Raises:
        UnknownName: Nothing is called so; the message has the words that are understood.
        MissingFile, CorruptFile: A file is not there or cannot be read.
        WeightsMismatch: The weights do not fit the model.
        MissingExtra: An optional package is needed.
        BadInput: Whatever else the caller can correct, errors of the user's code among them.
    """
    options = {
        "classes": classes,
        "channels": channels,
        "size": size,
        "seed": seed,
        "pretrained": weights is None and not spec.endswith("@none"),
    }
    with seeded(seed):
        model = _build(spec, options)
    if weights is not None:
        file = weights_file(weights) if weights.is_dir() else weights
        fit(model, read(file), source=str(weights))
    return model.eval().to(device)


def needs_weights(spec: str) -> bool:
    """Whether `load(spec)` without weights gives a model that was never trained.

    True for own architectures and for `@none`; false for what comes with weights, for saved
    directories, and for the user's code, which may load its own.

    Raises:
        UnknownName: A registered family is named, without or with an unknown member.
    """
    entry, name = _entry(spec)
    if entry is None:
        return False
    return name.endswith("@none") or not accepts(entry.load(), "pretrained")


def _build(spec: str, options: Mapping[str, object]) -> nn.Module:
    entry, name = _entry(spec)
    if entry is not None:
        return _call_entry(entry, {**options, "name": name} if name else options)
    path = Path(spec)
    if spec and path.is_dir():
        return from_directory(path, with_weights=bool(options["pretrained"]))
    home, _, attribute = spec.rpartition(":")
    if attribute.isidentifier() and (home.endswith(".py") or _dotted(home)):
        return from_code(spec, options)
    raise _not_understood(spec)


def _call_entry(entry: registry.Entry, options: Mapping[str, object]) -> nn.Module:
    factory: Callable[..., object] = entry.load()
    if accepts(factory, "name") != ("name" in options):
        example = f"{entry.name}:NAME" if accepts(factory, "name") else entry.name
        raise BadInput(f"A model is asked for as {example}; see `robustkit show {entry.name}`.")
    model = call(factory, options)
    if not isinstance(model, nn.Module):
        raise BadInput(f"{entry.name!r} gave a {type(model).__name__}; it must give a model.")
    return model


def _entry(spec: str) -> tuple[registry.Entry | None, str]:
    """The registry's entry for a word and the name behind its colon; None for paths and code."""
    known = registry.entries("models")
    if spec in known:
        return known[spec], ""
    family, colon, name = spec.partition(":")
    if colon and family in known:
        return known[family], name
    if colon and any(other.startswith(f"{family}:") for other in known):
        raise _unknown(spec, known)
    return None, ""


def _not_understood(spec: str) -> BadInput:
    path = Path(spec)
    if "://" in spec:
        return BadInput(f"Models are not read from addresses such as {spec!r}. Known: {_words()}.")
    if path.is_file():
        if path.suffix == ".py":
            return BadInput(f"{spec!r} lacks the name of a function: give {spec}:factory.")
        return BadInput(
            f"{spec!r} is a file: give it as --weights, and its architecture as --model."
        )
    if path.suffix or len(path.parts) > 1:
        return MissingFile(f"There is no model at {spec!r}. Known: {_words()}.")
    return _unknown(spec, registry.entries("models"))


def _unknown(spec: str, known: Iterable[str]) -> UnknownName:
    return UnknownName("model", spec, [*known, *FORMS])


def _words() -> str:
    return ", ".join([*registry.entries("models"), *FORMS])


def _dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))

"""Models of torchvision, timm and RobustBench.

All take images in [0, 1]: what torchvision and timm normalise in a transform becomes a layer.
Downloads go to torch's hub folder and are read without running code.
"""

import contextlib
import difflib
import importlib
import os
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from robustkit.errors import BadInput, MissingExtra, MissingFile, UnknownName, WeightsMismatch
from robustkit.models.layers import Normalize, Normalized
from robustkit.models.weights import first_line, fit

_FORCE_SAFE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def from_torchvision(
    *,
    name: str,
    pretrained: bool = True,
    classes: int | None = None,
    channels: int | None = None,
    size: int | None = None,
) -> Normalized:
    """A classifier of torchvision: `torchvision:NAME[@WEIGHTS]`.

    `torchvision:resnet50` has the default weights, `torchvision:resnet50@IMAGENET1K_V1` the named
    ones, `torchvision:resnet50@none` new ones. They are taken from torch's hub folder or downloaded
    into it. The normalisation of the named (or default) weights becomes a layer in each case, also
    where the weights come from a file of yours: for another one, write a factory with a `Normalize`
    layer.

    Args:
        name: The model and, behind an `@`, the weights.
        pretrained: False for new weights.
        classes: Number of logits of an untrained model; must agree with trained weights.
        channels: torchvision's models have 3.
        size: Side of the images, for untrained vision transformers, in pixels.

    Raises:
        BadInput: Unknown model or weights, or what they do not offer.
        MissingFile: The weights can be neither found nor downloaded.
        WeightsMismatch: The weights have another number of classes.

    Reference:
        TorchVision maintainers and contributors: "TorchVision: PyTorch's Computer Vision library",
        2016.
    """
    architecture, _, tag = name.partition("@")
    _known("torchvision", architecture, torchvision.models.list_models(module=torchvision.models))
    if channels not in (None, 3):
        raise BadInput(f"torchvision's models take 3 channels; {channels} were asked for.")
    choices = torchvision.models.get_model_weights(architecture)
    weights = _choose(choices.__members__, tag, architecture)
    options: dict[str, object] = {}
    if architecture in ("googlenet", "inception_v3"):
        # What their builders switch on together with trained weights.
        options = {"transform_input": True, "init_weights": not pretrained}
    if not pretrained:
        options["num_classes"] = classes or len(weights.meta["categories"])
        if size is not None and architecture.startswith("vit_"):
            options["image_size"] = size
        return _normalized(
            torchvision.models.get_model(architecture, weights=None, **options), weights
        )
    found = len(weights.meta["categories"])
    if classes not in (None, found):
        raise WeightsMismatch(
            f"{weights} has {found} classes, and {classes} were asked for. Give weights of your "
            f"own as --weights, or train torchvision:{architecture}@none."
        )
    model = torchvision.models.get_model(architecture, weights=None, **options)
    with _download(f"torchvision:{name}", str(weights.url)):
        tensors = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    fit(model, tensors, source=str(weights))
    return _normalized(model, weights)


def from_timm(
    *,
    name: str,
    pretrained: bool = True,
    classes: int | None = None,
    channels: int | None = None,
    size: int | None = None,
) -> Normalized:
    """A classifier of timm: `timm:NAME[.TAG]`; `timm:NAME@none` has new weights.

    The normalisation of its configuration becomes a layer (for another number of channels than 3:
    the mean over the three).

    Args:
        name: As timm calls it.
        pretrained: False for new weights.
        classes: Number of logits of an untrained model; must agree with trained weights.
        channels: Of the images; timm adapts the first layer.
        size: Side of the images, for models that are made for one size, in pixels.

    Raises:
        MissingExtra: timm is not installed.
        BadInput: Unknown model.
        MissingFile: The weights can be neither found nor downloaded.
        WeightsMismatch: The weights have another number of classes.

    Reference:
        Ross Wightman: "PyTorch Image Models", 2019.
    """
    timm = _require("timm")
    bare = name.removesuffix("@none")
    if not timm.is_model(bare):
        _known("timm", bare, timm.list_models())
    try:
        configuration = timm.get_pretrained_cfg(bare)
    except RuntimeError as error:
        tags = ", ".join(timm.list_pretrained(f"{bare.partition('.')[0]}.*"))
        raise BadInput(f"timm has no weights called {bare!r}; it has: {tags or 'none'}.") from error
    found = int(configuration.num_classes)
    if pretrained and classes not in (None, found):
        raise WeightsMismatch(
            f"timm:{bare} has {found} classes, and {classes} were asked for. Give weights of your "
            f"own as --weights, or train timm:{bare}@none."
        )
    options: dict[str, object] = {"num_classes": classes or found, "in_chans": channels or 3}
    if size is not None and configuration.fixed_input_size:
        options["img_size"] = size
    with (
        _download(f"timm:{bare}", "the Hugging Face hub")
        if pretrained
        else contextlib.nullcontext()
    ):
        model = timm.create_model(bare, pretrained=pretrained, **options)
    mean, std = list(configuration.mean), list(configuration.std)
    if channels not in (None, len(mean)):
        mean, std = [sum(mean) / len(mean)], [sum(std) / len(std)]
    return Normalized(Normalize(mean, std), model)


def from_robustbench(*, name: str, pretrained: bool = True) -> nn.Module:
    """A model of RobustBench's zoo: `robustbench:[DATA/THREAT/]NAME`.

    DATA is `cifar10` (default), `cifar100` or `imagenet`; THREAT is `Linf` (default), `L2`,
    `corruptions` or `corruptions_3d`. RobustBench's models normalise by themselves.

    Args:
        name: As in RobustBench's tables, for example `Wang2023Better_WRN-28-10`.
        pretrained: False for new weights.

    Raises:
        MissingExtra: RobustBench is not installed.
        BadInput: Unknown data, threat or model.
        MissingFile: The weights can be neither found nor downloaded.

    Reference:
        Francesco Croce, Maksym Andriushchenko, Vikash Sehwag, Edoardo Debenedetti, Nicolas
        Flammarion, Mung Chiang, Prateek Mittal, Matthias Hein: "RobustBench: a standardized
        adversarial robustness benchmark", NeurIPS 2021 datasets and benchmarks.
    """
    zoo = _require("robustbench.model_zoo", "robustbench").model_dicts
    enums = _require("robustbench.model_zoo.enums", "robustbench")
    parts = name.removesuffix("@none").split("/")
    if len(parts) not in (1, 3):
        raise BadInput(
            f"robustbench:{name} is not understood; give robustbench:[DATA/THREAT/]NAME."
        )
    data, threat, model_name = parts if len(parts) == 3 else ("cifar10", "Linf", parts[0])
    try:
        models = zoo[enums.BenchmarkDataset(data)][enums.ThreatModel(threat)]
    except (KeyError, ValueError) as error:
        raise BadInput(
            f"RobustBench has no models for data {data!r} and threat {threat!r}. Data: cifar10, "
            "cifar100, imagenet; threats: Linf, L2, corruptions, corruptions_3d."
        ) from error
    _known("robustbench", model_name, models)
    if not pretrained:
        untrained: nn.Module = models[model_name]["model"]()
        return untrained
    utils = _require("robustbench.utils", "robustbench")
    # It prints while it downloads; standard output belongs to results.
    with (
        _download(f"robustbench:{name}", "its Google Drive folder"),
        contextlib.redirect_stdout(sys.stderr),
    ):
        model: nn.Module = utils.load_model(
            model_name=model_name,
            model_dir=str(Path(torch.hub.get_dir()) / "robustbench"),
            dataset=data,
            threat_model=threat,
        )
    return model


def _normalized(model: nn.Module, weights: Any) -> Normalized:  # noqa: ANN401 - untyped
    transforms = weights.transforms()
    return Normalized(Normalize(list(transforms.mean), list(transforms.std)), model)


def _choose(choices: Any, tag: str, architecture: str) -> Any:  # noqa: ANN401 - untyped
    key = "DEFAULT" if tag in ("", "none") else tag
    if key not in choices:
        known = [*(name for name in choices if name != "DEFAULT"), "none"]
        raise UnknownName(f"set of weights of torchvision:{architecture}", tag, known)
    return choices[key]


def _known(zoo: str, name: str, names: Collection[str]) -> None:
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=5, cutoff=0.4)
    hint = f" Near names: {', '.join(near)}." if near else ""
    raise BadInput(f"{zoo} has no model {name!r} among its {len(names)}.{hint}")


def _require(module: str, extra: str | None = None) -> Any:  # noqa: ANN401 - a module
    extra = extra or module
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"Models of {extra} need a package that cannot be imported ({error}). "
            f"Install it with: pip install 'robustkit[{extra}]'"
        ) from error


@contextlib.contextmanager
def _download(spec: str, source: str) -> Iterator[None]:
    """Weights arrive, if they do, without running code; what fails becomes one clear error."""
    before = os.environ.get(_FORCE_SAFE)
    os.environ[_FORCE_SAFE] = "1"
    try:
        yield
    except BadInput:
        raise
    except Exception as error:  # each hub client has its own errors for being offline
        raise MissingFile(
            f"The weights of {spec} could not be loaded from {source} ({first_line(error)}). "
            "If this machine is offline, fetch them elsewhere and give them with --weights FILE."
        ) from error
    finally:
        if before is None:
            del os.environ[_FORCE_SAFE]
        else:
            os.environ[_FORCE_SAFE] = before

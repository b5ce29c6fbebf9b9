"""Which weights of a model can be fine-tuned alone."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from robustkit.errors import DoesNotFit, UnknownName
from robustkit.models.frozen import frozen

Candidates = Literal["all", "spatial"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Weight:
    """A tensor that can be fine-tuned alone.

    Attributes:
        module: The dotted name of its module.
        name: Its own dotted name: that of the module and `.weight`.
        parameters: How many numbers it holds.
        stem: Whether it is the first that an image meets.
        spatial: Whether it is a convolution larger than 1 x 1.
    """

    module: str
    name: str
    parameters: int
    stem: bool
    spatial: bool


def weights(model: nn.Module, image: Tensor) -> list[Weight]:
    """The weights of all convolutions and linear layers that a pass goes through, in its order.

    Layers that are built and never asked are left out: no image depends on them, and they would
    seem the least critical of all.

    Args:
        model: A classifier.
        image: (1, C, H, W).

    Raises:
        DoesNotFit: There is none.
    """
    own = {id(parameter): name for name, parameter in model.named_parameters()}
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and id(module.weight) in own
    }
    met: dict[str, None] = {}
    with _noting(layers, met), frozen(model), torch.no_grad():
        model(image)
    if not met:
        raise DoesNotFit(
            f"The model {type(model).__name__} passes images through no convolution and no linear "
            "layer, so there is no weight to fine-tune."
        )
    return [
        Weight(
            module=name,
            name=own[id(layers[name].weight)],
            parameters=layers[name].weight.numel(),
            stem=number == 0,
            spatial=layers[name].weight.ndim == 4 and layers[name].weight.shape[2:] != (1, 1),
        )
        for number, name in enumerate(met)
    ]


def choice(
    found: Sequence[Weight],
    ranking: Sequence[str],
    *,
    modules: Sequence[str],
    candidates: Candidates,
) -> tuple[Weight, ...]:
    """The weights to be fine-tuned.

    Args:
        found: As `weights` gives them.
        ranking: Modules, the least critical first.
        modules: Dotted names of what the caller wants; none takes the least critical candidate.
        candidates: `all`, or `spatial` convolutions alone; never the stem.

    Raises:
        UnknownName: A module that is not among `found`.
        DoesNotFit: There is no candidate.
    """
    by_name = {weight.module: weight for weight in found}
    for name in modules:
        if name not in by_name:
            raise UnknownName("convolution or linear layer of the model", name, by_name)
    if modules:
        return tuple(by_name[name] for name in dict.fromkeys(modules))
    for module in ranking:
        weight = by_name[module]
        if not weight.stem and (weight.spatial or candidates == "all"):
            return (weight,)
    raise DoesNotFit(
        f"Behind its first layer the model has no weight among the candidates {candidates!r}. "
        f"Name a module: {', '.join(by_name)}."
    )


@contextlib.contextmanager
def _noting(layers: Mapping[str, nn.Module], met: dict[str, None]) -> Iterator[None]:
    """Note which layers are called, in the order of their first call."""

    def note(name: str) -> Callable[..., None]:
        return lambda *_: met.setdefault(name)

    hooks = [layer.register_forward_pre_hook(note(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()

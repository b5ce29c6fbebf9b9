"""A network that sees stacks of images, and what it computes on the way."""

import copy
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from robustkit.errors import BadInput
from robustkit.models import Normalize
from robustkit.models.frozen import frozen
from robustkit.models.layers import seeded

Stem = Literal["fresh", "spread"]


def widened(network: nn.Module, copies: int, *, stem: Stem, seed: int) -> nn.Module:
    """A copy whose first convolution takes stacks of so many images.

    Layers that normalise do so with each image of the stack as before.

    Args:
        network: A classifier of (N, C, H, W) images.
        copies: Images in a stack.
        stem: The new convolution's weights: `fresh` ones, as torch draws them; or the old ones
            `spread` over the stack, so that of equal images the network says what it said.
        seed: Of fresh weights.

    Raises:
        BadInput: It has no convolution, or its first one works in groups.
    """
    wide = copy.deepcopy(network)
    name, old = _first(wide)
    if old.groups != 1:
        raise BadInput(f"The first convolution, {name!r}, works in {old.groups} groups.")
    new = copy.deepcopy(old)
    new.in_channels = copies * old.in_channels
    with torch.no_grad():
        new.weight = nn.Parameter(old.weight.repeat(1, copies, 1, 1) / copies)
    if stem == "fresh":
        with seeded(seed):
            new.reset_parameters()
    home, _, attribute = name.rpartition(".")
    setattr(wide.get_submodule(home), attribute, new)
    for layer in wide.modules():
        if isinstance(layer, Normalize) and layer.mean.shape[1] > 1:
            layer.mean = layer.mean.repeat(1, copies, 1, 1)
            layer.std = layer.std.repeat(1, copies, 1, 1)
    return wide


def _first(network: nn.Module) -> tuple[str, nn.Conv2d]:
    found = ((name, one) for name, one in network.named_modules() if isinstance(one, nn.Conv2d))
    first = next(found, None)
    if first is None or not first[0]:
        raise BadInput(
            f"{type(network).__name__} is no network with a convolution inside, which could be "
            "made to see several images."
        )
    return first


def passed(
    network: nn.Module, layers: Sequence[str], inputs: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """One pass: the logits, and what comes out of the named modules.

    Raises:
        BadInput: One of them was not reached, or gives no tensor.
    """
    caught: dict[str, Tensor] = {}

    def catch(name: str, output: object) -> None:
        if not isinstance(output, Tensor) or output.ndim < 2:
            raise BadInput(f"The layer {name!r} gives no tensor that a head could read.")
        caught[name] = output

    handles = [
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: catch(name, output)
        )
        for name in layers
    ]
    try:
        logits: Tensor = network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    missing = [name for name in layers if name not in caught]
    if missing:
        raise BadInput(f"The layer {missing[0]!r} takes no part in the network's answer.")
    return logits, [caught[name] for name in layers]


def checked(network: nn.Module, layers: Sequence[str]) -> None:
    """Refuse layers that are not there, or are named twice.

    Raises:
        BadInput: There is one.
    """
    known = [name for name, _ in network.named_modules() if name]
    unknown = [name for name in layers if name not in known]
    if unknown:
        raise BadInput(
            f"The network has no layer {unknown[0]!r}. Its outer ones: "
            f"{', '.join(name for name in known if '.' not in name)}."
        )
    if len(set(layers)) < len(layers):
        raise BadInput(f"A layer is named twice in {', '.join(layers)}.")


def inner_layers(network: nn.Module, inputs: Tensor, count: int) -> tuple[str, ...]:
    """The last few of a network's outer modules behind which its feature maps change shape.

    Args:
        network: In which they are looked for, two levels deep.
        inputs: (N, ...) what it takes.
        count: How many at most.

    Raises:
        BadInput: There are none.
    """
    names = [name for name, _ in network.named_modules() if name and name.count(".") < 2]
    order: dict[tuple[int, ...], str] = {}

    def catch(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim in (3, 4):
            shape = tuple(output.shape[1:])
            order.pop(shape, None)  # the last one of each shape, in order of appearance
            order[shape] = name

    handles = [
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: catch(name, output)
        )
        for name in names
    ]
    try:
        with frozen(network), torch.no_grad():
            network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    own = {shape for shape in order if shape == tuple(inputs.shape[1:])}
    found = [name for shape, name in order.items() if shape not in own]
    if not found:
        raise BadInput("The network has no feature maps that heads could read. Name its layers.")
    return tuple(found[-count:])


class Head(nn.Module):
    """Batch norm and a linear layer on one layer's activations."""

    def __init__(self, activations: Tensor, classes: int, *, pooled: bool) -> None:
        """Args: an example of what it will read, the classes, and whether places are averaged."""
        super().__init__()
        self.pooled = pooled
        features = self._flat(activations).shape[1]
        self.norm = nn.BatchNorm1d(features)
        self.linear = nn.Linear(features, classes)

    def forward(self, activations: Tensor) -> Tensor:
        """(N, K) logits."""
        logits: Tensor = self.linear(self.norm(self._flat(activations)))
        return logits

    def _flat(self, activations: Tensor) -> Tensor:
        """(N, F): the mean over places, which are the last axes of maps and the first of tokens."""
        if self.pooled and activations.ndim == 4:
            return activations.mean((2, 3))
        if self.pooled and activations.ndim == 3:
            return activations.mean(1)
        return activations.flatten(1)

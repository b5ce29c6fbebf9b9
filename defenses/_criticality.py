"""Which weights robustness depends on: robust criticality, one tensor at a time."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from robustkit.data import LabelledImages
from robustkit.errors import BadInput, DoesNotFit, UnknownName
from robustkit.models.frozen import frozen
from robustkit.randomness import Streams
from robustkit.threat_models import ThreatModel
from robustkit.training import Batch
from robustkit.training.losses import PGDTraining

Candidates = Literal["all", "spatial"]

# The longest way that the ascent could go, in radii of the ball: it can turn and still arrive.
_REACH = 2.5
# A change this near to the radius lies on the ball's boundary.
_BOUNDARY = 0.999


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Criticality:
    """What the worst small change of one tensor does to attacked images.

    The images stay as they were crafted against the unchanged weights, and the ascent is no exact
    maximum: `mrc` is a lower bound of the criticality. It ranks tensors and guarantees nothing.

    Attributes:
        module: The dotted name of the tensor's module.
        parameters: How many numbers the tensor holds.
        stem: Whether it is the first that an image meets.
        mrc: By how much the mean cross-entropy rose, 0 or more.
        accuracy_drop: By how much the accuracy on the same images fell at that point.
        boundary: Whether the change that did it is as large as allowed.
    """

    module: str
    parameters: int
    stem: bool
    mrc: float
    accuracy_drop: float
    boundary: bool


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


def attacked(
    model: nn.Module,
    images: LabelledImages,
    threat: ThreatModel,
    *,
    steps: int,
    batch_size: int,
    streams: Streams,
) -> tuple[Tensor, Tensor]:
    """The images as PGD changes them, and their labels, on the device of the streams.

    Args:
        model: A classifier.
        images: N training images.
        threat: Its perturbation set counts.
        steps: Of PGD.
        batch_size: Images per pass.
        streams: One per image.
    """
    loss = PGDTraining(threat=threat, steps=steps, step_size=2.5 / steps)
    labels = images.labels.to(streams.ids.device)
    parts = []
    for rows in torch.split(torch.arange(len(images)), batch_size):
        there = rows.to(labels.device)
        batch = Batch(
            inputs=images.inputs(rows).to(labels.device),
            labels=labels[there],
            ids=streams.ids[there],
            epoch=0,
            step=0,
            streams=streams.take(there),
        )
        parts.append(loss.craft(model, batch))
    return torch.cat(parts), labels


def criticality(
    model: nn.Module,
    weight: Weight,
    images: Tensor,
    labels: Tensor,
    *,
    radius: float,
    steps: int,
    batch_size: int,
) -> Criticality:
    """Raise the loss of fixed images by a change of one tensor.

    Ascent along the normalised gradient of the whole set, projected after every step; the best of
    all points, the unchanged tensor among them, counts. Nothing of the model is changed, and no
    copy of it is made.

    Args:
        model: A classifier.
        weight: The tensor.
        images: (N, C, H, W), attacked before.
        labels: (N,) int64 classes.
        radius: Of the ball, relative to the tensor's Euclidean length.
        steps: Of the ascent.
        batch_size: Images per pass; no result depends on it but for rounding.

    Raises:
        BadInput: The loss is no number.
    """
    start = dict(model.named_parameters())[weight.name].detach()
    room = radius * float(torch.linalg.vector_norm(start))
    length = _REACH * room / steps
    change = torch.zeros_like(start)
    base_loss, base_right, slope = _climbed(model, weight, start, images, labels, batch_size)
    best_loss, best_right, best_length = base_loss, base_right, 0.0
    for step in range(steps):
        norm = float(torch.linalg.vector_norm(slope))
        if norm == 0.0:
            break
        change = projected(change + (length / norm) * slope, room)
        last = step + 1 == steps
        loss, right, slope = _climbed(
            model, weight, start + change, images, labels, batch_size, gradient=not last
        )
        if loss > best_loss:
            best_loss, best_right = loss, right
            best_length = float(torch.linalg.vector_norm(change))
    return Criticality(
        module=weight.module,
        parameters=weight.parameters,
        stem=weight.stem,
        mrc=best_loss - base_loss,
        accuracy_drop=(base_right - best_right) / len(labels),
        boundary=best_length >= _BOUNDARY * room > 0,
    )


def projected(change: Tensor, room: float) -> Tensor:
    """The nearest tensor no longer than `room`."""
    norm = float(torch.linalg.vector_norm(change))
    return change if norm <= room else change * (room / norm)


def ranked(found: Sequence[Criticality]) -> tuple[Criticality, ...]:
    """The least critical first; ties by name."""
    return tuple(sorted(found, key=lambda one: (one.mrc, one.module)))


def choice(
    found: Sequence[Weight],
    ranking: Sequence[Criticality],
    *,
    modules: Sequence[str],
    candidates: Candidates,
) -> tuple[Weight, ...]:
    """The weights to be fine-tuned.

    Args:
        found: As `weights` gives them.
        ranking: The least critical first.
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
    for one in ranking:
        weight = by_name[one.module]
        if not weight.stem and (weight.spatial or candidates == "all"):
            return (weight,)
    raise DoesNotFit(
        f"Behind its first layer the model has no weight among the candidates {candidates!r}. "
        f"Name a module: {', '.join(by_name)}."
    )


def _climbed(
    model: nn.Module,
    weight: Weight,
    value: Tensor,
    images: Tensor,
    labels: Tensor,
    batch_size: int,
    *,
    gradient: bool = True,
) -> tuple[float, int, Tensor]:
    """Mean loss, right answers and the slope of the loss where one tensor has this value."""
    loss, right, slope = 0.0, 0, torch.zeros_like(value)
    with frozen(model), torch.set_grad_enabled(gradient):
        for rows in _slices(len(labels), batch_size):
            variable = value.detach().requires_grad_(gradient)
            logits = functional_call(model, {weight.name: variable}, (images[rows],)).float()
            total = F.cross_entropy(logits, labels[rows], reduction="sum")
            if gradient:
                slope += torch.autograd.grad(total, variable)[0]
            loss += float(total.detach())
            right += int((logits.detach().argmax(1) == labels[rows]).sum())
    if not math.isfinite(loss) or not bool(slope.isfinite().all()):
        raise BadInput(
            f"The loss is NaN or infinite where {weight.name!r} is changed a little. The model "
            "must give finite logits and gradients."
        )
    return loss / len(labels), right, slope


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


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

"""Which weights robustness depends on: robust criticality, one tensor at a time."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from robustkit.data import LabelledImages
from robustkit.defenses._weights import Weight
from robustkit.errors import BadInput
from robustkit.models.frozen import frozen
from robustkit.randomness import Streams
from robustkit.threat_models import ThreatModel
from robustkit.training import Batch
from robustkit.training.losses import PGDTraining

# The longest way that the ascent could go, in radii of the ball: it can turn and still arrive.
_REACH = 2.5
# A change this near to the radius lies on the ball's boundary.
_BOUNDARY = 0.999


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

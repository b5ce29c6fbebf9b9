"""How far to go from old weights to fine-tuned ones, decided on held-out training images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustkit.attacks import PGD
from robustkit.data import LabelledImages
from robustkit.models.frozen import frozen
from robustkit.randomness import Streams
from robustkit.statistics import Interval, paired_difference, wilson
from robustkit.threat_models import Objective, ThreatModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What counts as safe.

    Attributes:
        drop: Held-out robust accuracy may fall by this at most.
        doubt: The lower end of the interval around that change may lie this far below zero.
        confidence: Of the interval.
    """

    drop: float
    doubt: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model does on the held-out images.

    Attributes:
        right: (N,) bool, right on the clean image.
        stands: (N,) bool, and on what both attacks made of it.
        confidence: The mean probability of the model's own answers.
    """

    right: Tensor
    stands: Tensor
    confidence: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One place on the way from the old weights, 0, to the fine-tuned ones, 1.

    Attributes:
        alpha: The place.
        clean: Accuracy on the held-out images.
        robust: Accuracy where two attacks have changed them.
        clean_gain: By how much `clean` is larger than at 0, on the same images.
        robust_gain: Likewise for `robust`.
        confidence: The mean probability of the model's own answers to clean images.
        safe: Whether the loss of robustness, if any, is within the limits.
    """

    alpha: float
    clean: Interval
    robust: Interval
    clean_gain: Interval
    robust_gain: Interval
    confidence: float
    safe: bool


def mixed(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """The tensors at `alpha`; at 0 and 1 they have the very bits of the ones or the others."""
    return {name: torch.lerp(old, after[name], alpha) for name, old in before.items()}


def values(model: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """Copies of some of a model's parameters."""
    own = dict(model.named_parameters())
    return {name: own[name].detach().clone() for name in names}


def displacement(before: Tensor, after: Tensor) -> float:
    """How far a tensor went as the crow flies, relative to its Euclidean length."""
    length = float(torch.linalg.vector_norm(before))
    way = float(torch.linalg.vector_norm(after - before))
    return way / length if length else way


@torch.no_grad()
def put(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give some of a model's parameters new values in place."""
    own = dict(model.named_parameters())
    for name, value in tensors.items():
        own[name].copy_(value)


def curve(
    model: nn.Module,
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    alphas: Sequence[float],
    held_out: LabelledImages,
    threat: ThreatModel,
    *,
    limits: Limits,
    steps: int,
    batch_size: int,
    streams: Streams,
) -> tuple[Point, ...]:
    """Measure the model at every alpha; it is left with some of the values in between.

    Args:
        model: The classifier.
        before: The old tensors, by name.
        after: The fine-tuned ones.
        alphas: In rising order, 0 first.
        held_out: Images that neither of the two has been fitted to.
        threat: Against whom, with a gradient.
        limits: What counts as safe.
        steps: Of each of the two attacks.
        batch_size: Images per pass.
        streams: One per held-out image; the same for all alphas, so that they can be compared.
    """
    points: list[Point] = []
    base: Answers | None = None
    for alpha in alphas:
        put(model, mixed(before, after, alpha))
        found = answers(
            model, held_out, threat, steps=steps, batch_size=batch_size, streams=streams
        )
        base = base or found
        points.append(_point(alpha, found, base, limits))
    return tuple(points)


def best(points: Sequence[Point]) -> Point:
    """The safe point with the most clean accuracy; the least moved among equals.

    The first point is where nothing was changed, and always safe.
    """
    safe = [point for point in points if point.safe]
    return max(safe, key=lambda point: (point.clean.value, -point.alpha))


def answers(
    model: nn.Module,
    images: LabelledImages,
    threat: ThreatModel,
    *,
    steps: int,
    batch_size: int,
    streams: Streams,
) -> Answers:
    """Ask a model about images, clean and attacked by PGD on the cross-entropy and on the margin.

    Args: see `curve`.
    """
    device = next(model.parameters()).device
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    with frozen(model):
        for rows in torch.split(torch.arange(len(images)), batch_size):
            inputs, labels = images.inputs(rows).to(device), images.labels[rows].to(device)
            with torch.no_grad():
                logits = model(inputs).float()
            right = logits.argmax(1) == labels
            part = streams.take(rows.to(device))
            stands = _standing(model, inputs, labels, right, threat, steps=steps, streams=part)
            parts.append((right, stands, logits.softmax(1).amax(1)))
    right, stands, sure = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    return Answers(right, stands, float(sure.double().mean()))


def _standing(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    right: Tensor,
    threat: ThreatModel,
    *,
    steps: int,
    streams: Streams,
) -> Tensor:
    """(N,) bool: right, and still so after both attacks; each result is judged afresh."""
    stands = right.clone()
    for loss in ("cross-entropy", "margin"):
        rows = stands.nonzero()[:, 0]
        if not len(rows):
            break
        own = streams.take(rows).fork(loss)
        clean, wanted = inputs[rows], Objective(labels[rows])
        view: Any = threat.view(model, own)
        with torch.enable_grad():
            attack = PGD(steps=steps, loss=loss)
            changed = attack.run(view, clean, wanted, threat.allowed, streams=own)
        verdict = threat.judge(model, clean, changed, wanted, torch.zeros_like(rows))
        stands[rows[verdict.achieved]] = False
    return stands


def _point(alpha: float, found: Answers, base: Answers, limits: Limits) -> Point:
    n = len(found.right)
    robust_gain = _gain(found.stands, base.stands, limits.confidence)
    kept = robust_gain.value >= -limits.drop and robust_gain.low >= -limits.doubt
    return Point(
        alpha=alpha,
        clean=wilson(int(found.right.sum()), n, limits.confidence),
        robust=wilson(int(found.stands.sum()), n, limits.confidence),
        clean_gain=_gain(found.right, base.right, limits.confidence),
        robust_gain=robust_gain,
        confidence=found.confidence,
        safe=kept or found is base,
    )


def _gain(after: Tensor, before: Tensor, confidence: float) -> Interval:
    if after is before:
        return Interval(0.0, 0.0, 0.0)
    return paired_difference(after.numpy(), before.numpy(), confidence)

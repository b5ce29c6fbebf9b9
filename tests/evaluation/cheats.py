"""Attacks that cheat or fail, each in one way; none may score by it."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from robustkit.attacks import EvasionAttack
from robustkit.randomness import Streams
from robustkit.threat_models import Access, Decisions, Gradients, Objective, PerturbationSet

WAYS = ("outside", "out-of-range", "nan", "infinite", "shape", "rows", "dtype", "nothing", "none")

# What these ways of cheating return is not allowed by the threat model.
FORBIDDEN = tuple(way for way in WAYS if way != "nothing")


@dataclass(frozen=True, kw_only=True)
class Cheat(EvasionAttack[Decisions]):
    """Returns what would fool the model if it were allowed."""

    access: ClassVar[Access] = Access.DECISION
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1"})

    way: str

    def run(
        self,
        view: Decisions,
        inputs: Tensor,
        objective: Objective,
        allowed: PerturbationSet,
        *,
        streams: Streams,
    ) -> Tensor:
        view.labels(inputs)
        returned: Tensor = cheated(inputs, self.way)
        return returned


def cheated(inputs: Tensor, way: str) -> Any:  # noqa: ANN401 - a cheat may return anything
    """What the cheat returns for these inputs."""
    other = 1 - inputs
    returned = {
        "outside": other,
        "out-of-range": inputs - 1e-3,
        "nan": torch.full_like(inputs, torch.nan),
        "infinite": torch.full_like(inputs, torch.inf),
        "shape": other[:, :, 1:],
        "rows": torch.cat([other, other]),
        "dtype": other.double(),
        "nothing": inputs,
        "none": None,
    }
    return returned[way]


@dataclass(frozen=True, kw_only=True)
class Minimiser(Cheat):
    """Cheats, or looks for the smallest change by walking to the inverted image and back."""

    minimises: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Walker(EvasionAttack[Decisions]):
    """Goes from the image towards its inverse until the label changes: an honest minimiser."""

    access: ClassVar[Access] = Access.DECISION
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1"})
    minimises: ClassVar[bool] = True
    order_free: ClassVar[bool] = False

    points: int = 21

    def run(
        self,
        view: Decisions,
        inputs: Tensor,
        objective: Objective,
        allowed: PerturbationSet,
        *,
        streams: Streams,
    ) -> Tensor:
        found = inputs.clone()
        waiting = torch.ones(len(inputs), dtype=torch.bool)
        for part in torch.linspace(0, 1, self.points)[1:].tolist():
            rows = waiting.nonzero()[:, 0]
            if not len(rows):
                break
            tried = inputs[rows] * (1 - part) + (1 - inputs[rows]) * part
            won = view.labels(tried, rows) != objective.labels[rows]
            found[rows[won]] = tried[won]
            waiting[rows[won]] = False
        return found


@dataclass(frozen=True, kw_only=True)
class Neighbourly(EvasionAttack[Decisions]):
    """Moves each image away from the mean of its batch: what it finds depends on the others."""

    access: ClassVar[Access] = Access.DECISION
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1"})
    order_free: ClassVar[bool] = False

    def run(
        self,
        view: Decisions,
        inputs: Tensor,
        objective: Objective,
        allowed: PerturbationSet,
        *,
        streams: Streams,
    ) -> Tensor:
        view.labels(inputs)
        return allowed.project(inputs, 2 * inputs - inputs.mean(0))


class Trouble(Exception):
    """What a failing attack raises."""


@dataclass(frozen=True, kw_only=True)
class Failing(EvasionAttack[Gradients]):
    """Raises in the middle of its work."""

    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1"})

    def run(
        self,
        view: Gradients,
        inputs: Tensor,
        objective: Objective,
        allowed: PerturbationSet,
        *,
        streams: Streams,
    ) -> Tensor:
        view.logits(inputs)
        raise Trouble


@dataclass(frozen=True, kw_only=True)
class Tampering(EvasionAttack[Decisions]):
    """Overwrites whatever it is handed, so that the judge would see another problem."""

    access: ClassVar[Access] = Access.DECISION
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1"})

    def run(
        self,
        view: Decisions,
        inputs: Tensor,
        objective: Objective,
        allowed: PerturbationSet,
        *,
        streams: Streams,
    ) -> Tensor:
        inputs.copy_(1 - inputs)
        objective.labels.copy_((objective.labels + 1) % 10)
        return inputs

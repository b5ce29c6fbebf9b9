"""The threat model: who the adversary is, what it wants, sees, may change and spend."""

import math
from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor, nn

from robustkit.errors import BadInput
from robustkit.randomness import Streams
from robustkit.threat_models.access import Access
from robustkit.threat_models.answering import answer_padded
from robustkit.threat_models.goal import Goal, Objective, Untargeted
from robustkit.threat_models.meter import Meter
from robustkit.threat_models.perturbation import LpBall, PerturbationSet
from robustkit.threat_models.views import Decisions, grant


class Stage(Enum):
    """When the adversary acts."""

    INFERENCE = "inference"
    TRAINING = "training"
    RELEASE = "release"


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What the adversary may spend.

    Attributes:
        queries: Answers it may see per example; None for any number.
        poison_rate: Share of the training data it may change, in [0, 1]; None where it changes
            none.
        may_relabel: Whether changed training examples may get other labels.
    """

    queries: int | None = None
    poison_rate: float | None = None
    may_relabel: bool = False

    def __post_init__(self) -> None:
        """Refuse budgets that allow nothing or too much."""
        if self.queries is not None and self.queries < 1:
            raise BadInput(f"The query budget is {self.queries}. It must be at least 1.")
        if self.poison_rate is not None and not 0 <= self.poison_rate <= 1:
            raise BadInput(f"The poison rate is {self.poison_rate}. It must lie in [0, 1].")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of a batch of changed inputs, each row by itself.

    Attributes:
        allowed: (N,) bool: inside the perturbation set and within the budget.
        reached: (N,) bool: the goal is reached on a fresh forward pass, allowed or not.
        achieved: (N,) bool: reached and allowed.
        distance: (N,) float64: how far the input was changed.
        queries: (N,) int64: what was spent.
        labels: (N,) int64: what the model answered, as `Output.labels` has it.
    """

    allowed: Tensor
    reached: Tensor
    achieved: Tensor
    distance: Tensor
    queries: Tensor
    labels: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class ThreatModel:
    """One adversary; everything in robustkit is judged under such a value.

    Attributes:
        name: What the report calls it.
        stage: When the adversary acts.
        goal: What it wants.
        access: What it sees of the model.
        perturbation: What it may change; None where it changes no input.
        budget: What it may spend.

    Example:
        >>> threat = ThreatModel(name="tiny", perturbation=LpBall(norm="linf", radius=2 / 255))
        >>> threat.access
        <Access.GRADIENT: 3>
    """

    name: str
    stage: Stage = Stage.INFERENCE
    goal: Goal = Untargeted()
    access: Access = Access.GRADIENT
    perturbation: PerturbationSet | None = None
    budget: Budget = Budget()

    @property
    def allowed(self) -> PerturbationSet:
        """The perturbation set.

        Raises:
            BadInput: This adversary changes no inputs.
        """
        if self.perturbation is None:
            raise BadInput(
                f"The threat model {self.name!r} changes no inputs; an attack on inputs needs "
                f"a set."
            )
        return self.perturbation

    def with_radius(self, radius: float) -> "ThreatModel":
        """The same adversary in a ball of another radius."""
        if not isinstance(self.perturbation, LpBall):
            raise BadInput(
                f"The threat model {self.name!r} has no Lp ball whose radius could be set."
            )
        return replace(self, perturbation=replace(self.perturbation, radius=radius))

    def meter(self, model: nn.Module, victims: Streams, *, width: int | None = None) -> Meter:
        """The counted, limited way to the model that every view of this adversary shares."""
        return Meter(model, victims, width=width, queries=self.budget.queries)

    def view(self, model: nn.Module, victims: Streams) -> Decisions:
        """What this adversary sees of a model: a `Decisions`, `Scores` or `Gradients` view.

        Args:
            model: The model under attack, in eval mode.
            victims: One stream per example that is attacked.
        """
        return grant(self.meter(model, victims), self.access)

    def judge(
        self,
        model: nn.Module,
        clean: Tensor,
        changed: Tensor,
        objective: Objective,
        queries: Tensor,
        *,
        streams: Streams | None = None,
    ) -> Verdict:
        """Judge changed inputs on a fresh float32 forward pass.

        Args:
            model: The model under attack, in eval mode.
            clean: (N, C, H, W) the inputs the adversary was given.
            changed: (N, C, H, W) what it made of them; any other shape or type, or NaN, is not
                allowed.
            objective: What it wanted of each.
            queries: (N,) what it spent on each.
            streams: Fresh randomness for a random model.
        """
        if changed.shape != clean.shape or changed.dtype != clean.dtype:
            # An infinite image stands for whatever was returned: never allowed, never a win.
            changed = torch.full_like(clean, torch.inf)
        changed = changed.detach().to(clean.device, torch.float32)
        with torch.no_grad():
            output = answer_padded(model, changed, streams)
        reached = objective.reached(output)
        allowed = self.allowed.contains(clean, changed)
        if self.budget.queries is not None:
            allowed = allowed & (queries <= self.budget.queries)
        return Verdict(
            allowed=allowed,
            reached=reached,
            achieved=allowed & reached,
            distance=self.allowed.distance(clean, changed),
            queries=queries,
            labels=output.labels,
        )


def parse_radius(text: str | float) -> float:
    """A radius given as a number or a fraction such as `8/255`.

    Raises:
        BadInput: No number, NaN, negative, or a fraction with denominator 0.
    """
    hint = "Give a number or a fraction, 0 or larger, for example 0.03 or 8/255."
    numerator, slash, denominator = str(text).partition("/")
    try:
        radius = float(numerator) / float(denominator) if slash else float(numerator)
    except ValueError:
        raise BadInput(f"The radius {text!r} is no number. {hint}") from None
    except ZeroDivisionError:
        raise BadInput(f"The radius {text!r} divides by zero. {hint}") from None
    if math.isnan(radius) or radius < 0:
        raise BadInput(f"The radius {text!r} is not allowed. {hint}")
    return radius

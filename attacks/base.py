"""The contracts of attacks: on inputs, and on the data that others train on."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from torch import Tensor, nn

from robustkit.data import LabelledImages
from robustkit.errors import DoesNotFit
from robustkit.randomness import Streams
from robustkit.threat_models import (
    Access,
    Decisions,
    Objective,
    PerturbationSet,
    Stage,
    ThreatModel,
)

ViewT = TypeVar("ViewT", bound=Decisions)


class EvasionAttack(ABC, Generic[ViewT]):
    """An attack that changes inputs at inference time.

    Subclasses are frozen keyword-only dataclasses of hyper-parameters: no model, no radius, no
    state.

    Attributes:
        access: What the attack must see; it is handed a view of exactly this.
        norms: Perturbation sets it can work in, by `PerturbationSet.norm`.
        goals: Goals it can pursue, by `Goal.name`.
        minimises: It looks for the smallest change, so that a point outside the radius is a
            measured distance and not a violation.
        order_free: An example's result depends on nothing but the example; False for foreign code.
    """

    access: ClassVar[Access]
    norms: ClassVar[frozenset[str]]
    goals: ClassVar[frozenset[str]] = frozenset({"untargeted", "targeted"})
    minimises: ClassVar[bool] = False
    order_free: ClassVar[bool] = True

    def why_not(self, threat: ThreatModel) -> str | None:
        """The reason why this attack does not fit the threat model; None if it does."""
        if threat.stage is not Stage.INFERENCE:
            return f"it acts at inference, the threat at {threat.stage.value}"
        unsaid = [name for name in ("access", "norms") if not hasattr(self, name)]
        if unsaid:
            return f"its class does not say its {' and '.join(unsaid)} (a ClassVar each)"
        if self.access > threat.access:
            return f"it needs {self.access} access, the threat grants {threat.access}"
        return _misfit(self.norms, self.goals, threat)

    def check(self, threat: ThreatModel) -> None:
        """Raise DoesNotFit, with the reason, if this attack does not fit the threat model."""
        # The names are known to what builds attacks, which imports this module.
        from robustkit.attacks.building import name_of

        _refuse(name_of(self), self.why_not(threat), threat)

    @abstractmethod
    def run(
        self,
        view: ViewT,
        inputs: Tensor,
        objective: Objective,
        allowed: PerturbationSet,
        *,
        streams: Streams,
    ) -> Tensor:
        """Change inputs so that the objective is reached.

        Args:
            view: What the attack sees of the model; input i belongs to victim i.
            inputs: (N, C, H, W) float32 clean inputs; not modified.
            objective: What is wanted of each.
            allowed: What may be changed.
            streams: One random stream per input.

        Returns:
            Like `inputs`: for each row a point that reaches the objective if one was found,
            otherwise the attack's last point, inside the allowed set (unless the attack
            `minimises`).
        """


class Learner(Protocol):
    """Who trains what an attack must train; `robustkit.training.Trainer` is one."""

    def fit(self, model: nn.Module, data: LabelledImages, loss: Any = ..., /) -> object:  # noqa: ANN401 - a loss, which lies above attacks
        """Train a model in place."""
        ...

    def loss(self, name: str, /) -> Callable[..., Any]:
        """The registered loss called so, to be called with its options by keyword."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Poisoned:
    """Training data as the adversary hands it on.

    Attributes:
        data: In the order and with the ids of the clean data.
        changed: (N,) bool: which examples are not as they were.
    """

    data: LabelledImages
    changed: Tensor


class PoisoningAttack(ABC):
    """An attack that changes the data somebody else will train on.

    Subclasses are frozen keyword-only dataclasses of hyper-parameters: no data, no radius, no
    state. Labels stay as they are, unless the threat model's budget lets them change.

    Attributes:
        norms: Perturbation sets it works in, by `PerturbationSet.norm`.
        goals: Goals it can pursue, by `Goal.name`.
        trains: It has the trainer train a model, so that the trainer's settings matter.
    """

    norms: ClassVar[frozenset[str]]
    goals: ClassVar[frozenset[str]] = frozenset({"availability"})
    trains: ClassVar[bool] = True

    def why_not(self, threat: ThreatModel) -> str | None:
        """The reason why this attack does not fit the threat model; None if it does."""
        if threat.stage is not Stage.TRAINING:
            return f"it acts at training, the threat at {threat.stage.value}"
        if threat.budget.poison_rate is None:
            return "it changes training data, the threat has no poison_rate"
        return _misfit(self.norms, self.goals, threat)

    def check(self, threat: ThreatModel) -> None:
        """Raise DoesNotFit, with the reason, if this attack does not fit the threat model."""
        _refuse(type(self).__name__, self.why_not(threat), threat)

    @abstractmethod
    def run(
        self,
        data: LabelledImages,
        threat: ThreatModel,
        *,
        trainer: Learner,
        streams: Streams,
    ) -> Poisoned:
        """Change training data so that whoever trains on it serves the goal.

        Args:
            data: The clean training data; not modified.
            threat: What may be changed, how much of the data, and what for.
            trainer: Who trains what the attack must train; some attacks train nothing.
            streams: One random stream per example; what computes works where their ids lie.

        Raises:
            DoesNotFit: The threat model is none that it works under.
        """


def _misfit(norms: frozenset[str], goals: frozenset[str], threat: ThreatModel) -> str | None:
    """Why an attack of these norms and goals does not fit; None if it does."""
    if threat.perturbation is None or threat.perturbation.norm not in norms:
        given = "no change of inputs" if threat.perturbation is None else threat.perturbation.norm
        return f"it works in {', '.join(sorted(norms))}, the threat allows {given}"
    if threat.goal.name not in goals:
        wanted = ", ".join(sorted(goals))
        return f"it pursues {wanted} goals, the threat's is {threat.goal.name}"
    return None


def _refuse(name: str, reason: str | None, threat: ThreatModel) -> None:
    if reason is not None:
        raise DoesNotFit(f"{name} does not fit the threat model {threat.name!r}: {reason}.")

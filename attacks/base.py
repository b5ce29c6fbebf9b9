"""The contract of attacks on inputs."""

from abc import ABC, abstractmethod
from typing import ClassVar, Generic, TypeVar

from torch import Tensor

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
        if self.access > threat.access:
            return f"it needs {self.access} access, the threat grants {threat.access}"
        if threat.perturbation is None or threat.perturbation.norm not in self.norms:
            given = (
                "no change of inputs" if threat.perturbation is None else threat.perturbation.norm
            )
            return f"it works in {', '.join(sorted(self.norms))}, the threat allows {given}"
        if threat.goal.name not in self.goals:
            wanted = ", ".join(sorted(self.goals))
            return f"it pursues {wanted} goals, the threat's is {threat.goal.name}"
        return None

    def check(self, threat: ThreatModel) -> None:
        """Raise DoesNotFit, with the reason, if this attack does not fit the threat model."""
        reason = self.why_not(threat)
        if reason is not None:
            raise DoesNotFit(
                f"{type(self).__name__} does not fit the threat model {threat.name!r}: {reason}."
            )

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

"""The contract of defenses, and of defended models that do more than a classifier does."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from robustkit.data import LabelledImages
from robustkit.errors import BadInput, DoesNotFit
from robustkit.randomness import Streams
from robustkit.threat_models import Output, Stage, ThreatModel
from robustkit.training import Trainer


class Defended(nn.Module, ABC):
    """A model that may reject, name several labels, answer at random, or hide its gradients.

    A defense whose result is an ordinary classifier gives back that classifier and needs no
    `Defended`.

    Attributes:
        stochastic: Whether the same question may get another answer.
    """

    stochastic: bool = False

    @abstractmethod
    def answer(self, inputs: Tensor, *, streams: Streams | None = None) -> Output:
        """The answers to a batch.

        Args:
            inputs: (N, C, H, W) in [0, 1].
            streams: One random stream per row; may be None only where `stochastic` is False.
        """

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, K) logits, for attacks that know nothing but classifiers."""
        return self.answer(inputs).logits

    def surrogates(self) -> Mapping[str, nn.Module]:
        """Differentiable stand-ins by name, which the evaluation attacks besides the model itself.

        A defense whose gradients mislead names here what an adversary would attack in its place.
        """
        return {}


class Defense(ABC):
    """Makes models harder to attack.

    Subclasses are frozen keyword-only dataclasses of hyper-parameters: no model, no radius, no
    state. None has a training loop of its own: what must be learnt, the trainer learns.

    Attributes:
        stages: When the adversary may act against whom it defends.
        norms: Perturbation sets it knows, by `PerturbationSet.norm`; None where it needs none.
    """

    stages: ClassVar[frozenset[Stage]] = frozenset({Stage.INFERENCE})
    norms: ClassVar[frozenset[str] | None] = None

    def why_not(self, threat: ThreatModel) -> str | None:
        """The reason why this defense does not fit the threat model; None if it does."""
        if threat.stage not in self.stages:
            known = ", ".join(sorted(stage.value for stage in self.stages))
            return f"it defends at {known}, the threat acts at {threat.stage.value}"
        if self.norms is None:
            return None
        given = "no change of inputs" if threat.perturbation is None else threat.perturbation.norm
        if given not in self.norms:
            return f"it knows {', '.join(sorted(self.norms))}, the threat allows {given}"
        return None

    def check(self, threat: ThreatModel) -> None:
        """Raise DoesNotFit, with the reason, if this defense does not fit the threat model."""
        reason = self.why_not(threat)
        if reason is not None:
            raise DoesNotFit(
                f"{type(self).__name__} does not fit the threat model {threat.name!r}: {reason}."
            )

    @abstractmethod
    def protect(
        self,
        models: Sequence[nn.Module],
        data: LabelledImages,
        threat: ThreatModel,
        *,
        trainer: Trainer,
        streams: Streams,
    ) -> nn.Module:
        """A defended model; those that were given are not changed.

        Args:
            models: What to defend; most defenses take one.
            data: Training images, never those of the test.
            threat: Against whom.
            trainer: Who learns what must be learnt.
            streams: One random stream per image of `data`.

        Returns:
            A `Defended`, or an ordinary classifier where the defense makes one.

        Raises:
            DoesNotFit: The threat model or a model is none that it can defend.
        """


def only(models: Sequence[nn.Module], what: str) -> nn.Module:
    """The single model that a defense was given.

    Raises:
        BadInput: It is not single.
    """
    if len(models) != 1:
        raise BadInput(f"{what} defends one model at a time; {len(models)} were given.")
    return models[0]

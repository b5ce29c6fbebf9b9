"""One-step attacks."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from robustkit.attacks.losses import LOSSES, AttackLoss
from robustkit.attacks.rows import Rows
from robustkit.attacks.steps import linear_maximum_l1, reach, steepest
from robustkit.attacks.stepwise import Stepwise
from robustkit.errors import BadInput


@dataclass(slots=True)
class _State:
    rows: Rows
    point: Tensor


class _OneStep(Stepwise[_State]):
    """Start at the clean image, take one step as long as the radius."""

    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1"})

    def begin(self, rows: Rows) -> _State:
        """Start at the clean image."""
        return _State(rows, rows.clean)

    def propose(self, state: _State) -> Tensor:
        """The clean image, then the one step."""
        return state.point

    def update(self, state: _State, logits: Tensor, gradient: Tensor) -> Tensor:
        """The step that raises a linear loss most."""
        allowed = state.rows.allowed
        if allowed.norm == "l1":
            change = linear_maximum_l1(gradient, state.point, allowed)
        else:
            change = reach(allowed, gradient) * steepest(
                gradient, state.point, allowed, sparsity=1.0
            )
        state.point = allowed.project(state.rows.clean, state.point + change)
        return torch.ones_like(state.rows.index, dtype=torch.bool)


@dataclass(frozen=True, kw_only=True, slots=True)
class FGSM(_OneStep):
    """The fast gradient sign method and its steepest-ascent forms in l2 and l1.

    Attributes:
        loss: `cross-entropy`, `margin` or `dlr`.

    Raises:
        BadInput: An unknown loss.

    Reference:
        Goodfellow, Shlens, Szegedy: Explaining and harnessing adversarial examples. ICLR 2015.

    Differs from the reference:
        The result is kept in the value range. In l1 the step is the exact maximum of the linearised
        loss over ball and range: values move as far as they can, largest gradient first.
    """

    loss: AttackLoss = "cross-entropy"

    def __post_init__(self) -> None:
        """Refuse an unknown loss."""
        if self.loss not in LOSSES:
            raise BadInput(f"The loss {self.loss!r} is unknown. Use one of: {', '.join(LOSSES)}.")

    def gain(self, state: _State, logits: Tensor) -> Tensor:
        """The chosen loss."""
        return LOSSES[self.loss](logits, state.rows.objective)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepLL(_OneStep):
    """One step towards the class the model finds least likely ("step l.l.").

    Made for adversarial training: it does not leak the right label. The goal is untargeted; the
    class is only where the step points to.

    Reference:
        Kurakin, Goodfellow, Bengio: Adversarial machine learning at scale. ICLR 2017.

    Differs from the reference:
        The class is never the right one, also where the model finds that one least likely.
    """

    goals: ClassVar[frozenset[str]] = frozenset({"untargeted"})

    def gain(self, state: _State, logits: Tensor) -> Tensor:
        """Minus the cross-entropy of the least likely wrong class."""
        right = state.rows.objective.labels[:, None]
        least = logits.detach().scatter(1, right, torch.inf).argmin(1)
        return -F.cross_entropy(logits, least, reduction="none")

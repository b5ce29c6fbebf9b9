"""AutoAttack, run by the package pyautoattack and counted and limited by the view."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import pyautoattack
import torch
from torch import Tensor, nn

from robustkit.attacks._foreign import ForeignAttack, Scalar
from robustkit.errors import BadInput
from robustkit.threat_models import Access, Gradients, Objective, PerturbationSet, ThreatModel

Version = Literal["standard", "plus", "rand"]

_PARTS: Mapping[Version, tuple[str, ...]] = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
_CLASSES = {"apgd-dlr": 3, "apgd-t": 4, "fab-t": 4}
_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}


@dataclass(frozen=True, kw_only=True)
class AutoAttack(ForeignAttack[Gradients]):
    """The ensemble of parameter-free attacks that RobustBench ranks by.

    Attributes:
        version: `standard` (APGD-CE, targeted APGD and FAB, Square), `plus` (more restarts, also
            untargeted APGD-DLR and FAB), or `rand` (for random models: APGD on averaged gradients).

    Raises:
        BadInput: An unknown version.

    Reference:
        Croce, Hein: Reliable evaluation of adversarial robustness with an ensemble of diverse
        parameter-free attacks. ICML 2020. l1: Croce, Hein: Mind the box. ICML 2021.

    Differs from the reference:
        Parts that need more classes than the model has are left out, see `dropped`, and no more
        targets are tried than there are wrong classes. Gradients do not reach the model's
        parameters. A batch on which the package fails is attacked image by image, and so is
        everything under a query budget, where the best point asked about counts when the budget
        ends. What left the set by rounding is put back into it. The package's warnings about the
        model are not shown: the evaluation has checks of its own.
    """

    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset(_NORMS)
    goals: ClassVar[frozenset[str]] = frozenset({"untargeted"})

    version: Version = "standard"

    def __post_init__(self) -> None:
        """Refuse an unknown version."""
        if self.version not in _PARTS:
            raise BadInput(
                f"AutoAttack has no version {self.version!r}. "
                f"Use one of: {', '.join(get_args(Version))}."
            )

    @property
    def variant(self) -> str:
        """The version; empty for `standard`."""
        return "" if self.version == "standard" else self.version

    @property
    def arguments(self) -> Mapping[str, Scalar]:
        """The version."""
        return {"version": self.version}

    def why_not(self, threat: ThreatModel) -> str | None:
        """The reason why this attack does not fit the threat model; None if it does."""
        reason = super().why_not(threat)
        if reason is None and (threat.allowed.low, threat.allowed.high) != (0, 1):
            reason = (
                f"it works in the value range [0, 1], the threat's is "
                f"[{threat.allowed.low}, {threat.allowed.high}]"
            )
        return reason

    def dropped(self, classes: int) -> tuple[tuple[str, str], ...]:
        """The parts left out for a model with so many classes, with the reasons.

        Example:
            >>> AutoAttack().dropped(10)
            ()
            >>> [part for part, reason in AutoAttack().dropped(3)]
            ['apgd-t', 'fab-t']
        """
        return tuple(
            (part, f"it needs {_CLASSES[part]} classes, the model has {classes}")
            for part in _PARTS[self.version]
            if classes < _CLASSES.get(part, 0)
        )

    def search(
        self,
        module: nn.Module,
        inputs: Tensor,
        objective: Objective,
        allowed: PerturbationSet,
        *,
        starts: Tensor | None,
        seed: int,
    ) -> tuple[Tensor, Tensor]:
        """The package's evaluation; see `ForeignAttack.search`."""
        with _silent(logging.getLogger("auto-attack")):
            classes = module(inputs[:1]).shape[1]
            attack = pyautoattack.AutoAttack(
                module,
                norm=_NORMS[allowed.norm],
                eps=allowed.radius,
                seed=seed,
                version=self.version,
                device=inputs.device,
            )
            dropped = dict(self.dropped(classes))
            attack.attacks_to_run = [part for part in attack.attacks_to_run if part not in dropped]
            for targeted in (attack.apgd_targeted, attack.fab):
                targeted.n_target_classes = min(targeted.n_target_classes, classes - 1)
            points, labels = attack.run_standard_evaluation(
                inputs, objective.labels, batch_size=len(inputs)
            )
        return points, torch.as_tensor(labels != objective.labels)


@contextlib.contextmanager
def _silent(logger: logging.Logger) -> Iterator[None]:
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before

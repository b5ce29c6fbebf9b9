"""One-step adversarial training, with a guard."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from robustkit.training.batch import Batch
from robustkit.training.losses.base import held
from robustkit.training.losses.pgd import PGDTraining
from robustkit.training.losses.standard import check_share

GUARD = "guard_accuracy"


@dataclass(frozen=True, kw_only=True)
class FastTraining(PGDTraining):
    """FGSM from a random start, watched by PGD.

    One-step training can fail within an epoch: the model learns to mislead the one step, and falls
    to longer attacks. After every epoch PGD attacks one batch of training examples that stays the
    same; when its accuracy has fallen by more than `largest_drop` below the best epoch's, training
    stops and the weights of the epoch before are kept.

    Attributes:
        guard_steps: Of the watching PGD; 0 watches nothing.
        largest_drop: Of the accuracy under it, in [0, 1).

    Reference:
        Wong, Rice, Kolter: Fast is better than free: revisiting adversarial training. ICLR 2020.

    Differs from the reference:
        The guard compares with the best epoch, not with the one before, and takes 10 steps instead
        of 5. The single step is longer than the radius, 1.25, as in the reference.
    """

    steps: int = 1
    step_size: float = 1.25
    guard_steps: int = 10
    largest_drop: float = 0.2

    def __post_init__(self) -> None:
        """Refuse hyper-parameters that mean nothing."""
        super().__post_init__()
        check_share("largest drop", self.largest_drop)

    def probe(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """(N,) float: 1 where the model's answer stands against PGD."""
        if not self.guard_steps:
            return {}
        longer = PGDTraining(
            threat=self.threat, steps=self.guard_steps, step_size=2.5 / self.guard_steps
        )
        changed = longer.craft(model, dataclasses.replace(batch, changed=None))
        with held(model):
            return {GUARD: (model(changed).argmax(1) == batch.classes).float()}

    def stop(self, history: Sequence[Mapping[str, Any]]) -> str | None:
        """The reason to stop: catastrophic overfitting."""
        seen = [float(record[GUARD]) for record in history if GUARD in record]
        if len(seen) < 2 or seen[-1] >= max(seen) - self.largest_drop:
            return None
        return (
            f"catastrophic overfitting: the accuracy under {self.guard_steps} steps of PGD fell "
            f"from {max(seen):.1%} to {seen[-1]:.1%}"
        )

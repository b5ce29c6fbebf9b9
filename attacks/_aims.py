"""Wrong classes as stepping stones: where an attack that may reach any of them is led to."""

import torch
from torch import Tensor

from robustkit.attacks.losses import LOSSES, AttackLoss, dlr_classes
from robustkit.threat_models import Objective


def most_likely_wrong(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """The wrong classes that a model finds most likely, in falling order.

    Args:
        logits: (N, K) answers.
        labels: (N,) int64, the right classes.
        count: How many; where there are fewer wrong classes, they come round again.

    Returns:
        (N, count) int64; the right class only where there is no other.
    """
    # Only the right class may be at minus infinity, or it could come before another one.
    finite = logits.nan_to_num(neginf=torch.finfo(logits.dtype).min)
    masked = finite.scatter(1, labels[:, None], -torch.inf)
    order = masked.argsort(dim=1, descending=True, stable=True)
    wrong = max(logits.shape[1] - 1, 1)
    return order[:, torch.arange(count, device=logits.device) % wrong]


def lead(loss: AttackLoss, logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """(N,) how near the answer is to the class `targets`, for an adversary that any class serves.

    The margin is that over the right class: where a third one is ahead of both, the adversary has
    what it wants.

    Args:
        loss: `cross-entropy`, `margin` or `dlr` (the margin under four classes).
        logits: (N, K) answers.
        labels: (N,) int64, the right classes.
        targets: (N,) int64, the classes aimed at.
    """
    objective = Objective(labels, targets)
    if loss == "margin" or (loss == "dlr" and logits.shape[1] < dlr_classes(objective)):
        both = logits.gather(1, torch.stack([targets, labels], dim=1))
        return both[:, 0] - both[:, 1]
    return LOSSES[loss](logits, objective)

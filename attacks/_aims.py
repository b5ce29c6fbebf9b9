"""Wrong classes as stepping stones: where an attack that may reach any of them is led to."""

import torch
from torch import Tensor

from robustkit.attacks.losses import LOSSES, AttackLoss, dlr_classes
from robustkit.attacks.rows import Rows
from robustkit.attacks.steps import input_gradient
from robustkit.threat_models import Gradients, Objective

# Gradients are taken for so many of the most likely wrong classes.
CANDIDATES = 9


@torch.enable_grad()
def nearest_wrong(view: Gradients, rows: Rows) -> Tensor:
    """The wrong classes whose decision boundaries are nearest, if the model is linear around here.

    The distance to a class is its lag behind the right class divided by the length of that lag's
    gradient in the dual norm. One forward pass, and one backward pass for each of the `CANDIDATES`
    most likely wrong classes.

    Args:
        view: The model as the attack sees it; each row pays, if it can pay for another query too.
        rows: The examples.

    Returns:
        (N, A) int64, nearest first; A is `CANDIDATES` or the number of wrong classes, if that is
        smaller, and at least 1. -1 for a row that cannot pay.

    Raises:
        DoesNotFit: No gradient comes back from the model.

    Reference:
        Moosavi-Dezfooli, Fawzi, Frossard: DeepFool: a simple and accurate method to fool deep
        neural networks. CVPR 2016. As a ranking of targets: Melamed, Yehudai, Shamir: MALT powers
        up adversarial attacks. NeurIPS 2024.
    """
    pays = rows.index >= 0
    if view.remaining is not None:
        pays &= view.remaining[rows.index.clamp_min(0)] > 1
    inputs = rows.clean.detach().requires_grad_()
    logits = view.answer(inputs, torch.where(pays, rows.index, -1)).guidance
    labels = rows.objective.labels
    classes = most_likely_wrong(
        logits.detach(), labels, max(1, min(CANDIDATES, logits.shape[1] - 1))
    )
    order = {"linf": 1, "l2": 2}.get(rows.allowed.norm, torch.inf)
    own = logits.gather(1, labels[:, None])[:, 0]
    far = []
    for target in classes.unbind(1):
        lag = own - logits.gather(1, target[:, None])[:, 0]
        slope = torch.linalg.vector_norm(
            input_gradient(lag, inputs, keep=True).flatten(1), order, dim=1, dtype=torch.float64
        )
        far.append(lag.detach().double() / slope.clamp_min(1e-300))
    nearest = torch.stack(far, dim=1).nan_to_num(nan=torch.inf).argsort(dim=1, stable=True)
    return torch.where(pays[:, None], classes.gather(1, nearest), -1)


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
    if loss == "margin" or (loss == "dlr" and logits.shape[1] < dlr_classes(targeted=True)):
        both = logits.gather(1, torch.stack([targets, labels], dim=1))
        return both[:, 0] - both[:, 1]
    return LOSSES[loss](logits, objective)

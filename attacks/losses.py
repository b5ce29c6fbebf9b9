"""What gradient attacks raise: one value per row, larger the closer the goal is."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from robustkit.threat_models import Objective

AttackLoss = Literal["cross-entropy", "margin", "dlr"]


def cross_entropy(logits: Tensor, objective: Objective) -> Tensor:
    """(N,) cross-entropy of the right label, or minus that of the target.

    Written as softplus(log-sum-exp of the other logits - own logit). The usual form has the factor
    p - 1 in its gradient, which float32 rounds to 0 where the model is certain: the own logit would
    no longer be pushed.
    """
    wanted = objective.labels if objective.targets is None else objective.targets
    own = logits.gather(1, wanted[:, None])[:, 0]
    others = logits.scatter(1, wanted[:, None], -torch.inf).logsumexp(1)
    loss = F.softplus(others - own)
    return loss if objective.targets is None else -loss


def margin(logits: Tensor, objective: Objective) -> Tensor:
    """(N,) lead of the wanted class in the logits; positive once the goal is reached.

    Reference:
        Carlini, Wagner: Towards evaluating the robustness of neural networks. S&P 2017 (f6).
    """
    wanted = objective.labels if objective.targets is None else objective.targets
    own = logits.gather(1, wanted[:, None])[:, 0]
    best_other = logits.scatter(1, wanted[:, None], -torch.inf).amax(1)
    return best_other - own if objective.targets is None else own - best_other


def dlr(logits: Tensor, objective: Objective) -> Tensor:
    """(N,) difference of logits ratio, which does not change when all logits are scaled or shifted.

    Needs three classes, four for a target; with fewer the ratio is not defined and the margin is
    taken.

    Reference:
        Croce, Hein: Reliable evaluation of adversarial robustness with an ensemble of diverse
        parameter-free attacks. ICML 2020.

    Differs from the reference:
        The denominator is kept above 1e-12, so that equal logits give a finite loss.
    """
    needed = dlr_classes(targeted=objective.targets is not None)
    if logits.shape[1] < needed:
        return margin(logits, objective)
    top = logits.topk(needed, dim=1).values
    if objective.targets is None:
        return margin(logits, objective) / (top[:, 0] - top[:, 2]).clamp_min(1e-12)
    lead = logits.gather(1, objective.targets[:, None]) - logits.gather(
        1, objective.labels[:, None]
    )
    return lead[:, 0] / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2).clamp_min(1e-12)


def dlr_classes(*, targeted: bool) -> int:
    """How many classes the difference of logits ratio needs."""
    return 4 if targeted else 3


LOSSES: dict[AttackLoss, Callable[[Tensor, Objective], Tensor]] = {
    "cross-entropy": cross_entropy,
    "margin": margin,
    "dlr": dlr,
}

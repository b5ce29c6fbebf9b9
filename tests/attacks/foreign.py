"""Threats under which Foolbox's attacks are tried, and how one is judged."""

from torch import Tensor, nn

from robustkit.attacks.foolbox import FoolboxAttack
from robustkit.threat_models import (
    Access,
    LpBall,
    Objective,
    ThreatModel,
    Verdict,
)
from robustkit.threat_models.model import Budget
from tests.attacks.conftest import Victims

RADII = {"linf": 0.2, "l2": 1.5, "l1": 6.0, "l0": 8.0}


def threat(norm: str, access: Access, *, queries: int | None = None) -> ThreatModel:
    return ThreatModel(
        name="test",
        access=access,
        perturbation=LpBall(norm=norm, radius=RADII[norm]),  # type: ignore[arg-type]
        budget=Budget(queries=queries),
    )


def against(
    attack: FoolboxAttack,
    threat: ThreatModel,
    victims: Victims,
    objective: Objective | None = None,
    model: nn.Module | None = None,
) -> tuple[Tensor, Verdict]:
    """The attack's points and the verdict on them."""
    model = model or victims.model
    view = threat.view(model, victims.streams)
    wanted = objective or victims.objective
    points = attack.run(view, victims.inputs, wanted, threat.allowed, streams=victims.streams)
    return points, threat.judge(victims.model, victims.inputs, points, wanted, view.spent)

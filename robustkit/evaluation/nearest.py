"""The nearest adversarial point that is known, for adversaries who see too little to find it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustkit.attacks import FMN, describe, name_of
from robustkit.evaluation.blocks import parts
from robustkit.evaluation.engine import Engine
from robustkit.passes import Passes
from robustkit.threat_models import Access, Meter, grant

_PURPOSE = "white box"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WhiteBox:
    """What an attack with gradients found, apart from the verdict.

    Attributes:
        attack: The attack.
        rows: (M,) positions of the examples it was run on.
        distances: (M,) float64, how far the nearest point is that reached the goal on a fresh pass;
            infinite where none did.
        cost: All its passes, judging included.
    """

    attack: FMN
    rows: Tensor
    distances: Tensor
    cost: Passes

    def by_row(self) -> dict[int, float]:
        """The distance for each position."""
        return dict(zip(self.rows.tolist(), self.distances.tolist(), strict=True))

    def table(self) -> dict[str, object]:
        """What was run, on how many examples, and what it cost, for the report."""
        return {
            "name": name_of(self.attack),
            "options": dict(describe(self.attack)),
            "examples": len(self.rows),
            "found": int(self.distances.isfinite().sum()),
            "forward": self.cost.forward,
            "backward": self.cost.backward,
            "rows_run": self.cost.rows_run,
        }


def white_box(engine: Engine, rows: Tensor, *, differentiable: bool) -> WhiteBox | None:
    """How near the goal can be reached by who sees gradients; None where that cannot be told.

    It is told for threats that grant labels only, where the attack was traced, the model gives
    gradients and answers the same every time, and the attack works in the norm. It decides nothing:
    an example that only this attack breaks has not been broken by the adversary.

    Args:
        engine: A run whose plan is complete.
        rows: (M,) positions of the examples that were right at the start.
        differentiable: Whether the model's answers carry a gradient.
    """
    threat, attack = engine.threat, FMN()
    traced = any(group.nearest for group in engine.records.stage(0))
    fits = threat.allowed.norm in attack.norms and threat.goal.name in attack.goals
    steady = differentiable and engine.jury is None
    if threat.access is not Access.DECISION or not (traced and fits and steady and len(rows)):
        return None
    engine.progress.stage(f"{name_of(attack)}, for comparison", len(rows), 0)
    found, cost = [], Passes()
    for part in parts(rows, engine.width):
        distances, passes = _search(engine, attack, part)
        found.append(distances)
        cost += passes
        engine.progress.advance(len(part), 0)
    return WhiteBox(attack=attack, rows=rows, distances=torch.cat(found), cost=cost)


def _search(engine: Engine, attack: FMN, rows: Tensor) -> tuple[Tensor, Passes]:
    clean, wanted = engine.inputs(rows), engine.objective(rows)
    allowed, streams = engine.threat.allowed, engine.streams(rows, _PURPOSE)
    # No budget: it is the adversary's.
    meter = Meter(engine.model, streams, width=engine.width)
    view: Any = grant(meter, Access.GRADIENT)
    points = attack.run(view, clean, wanted, allowed, streams=streams)
    with torch.no_grad():
        output = view.answer(points, torch.arange(len(rows), device=engine.device))
    reached = wanted.reached(output) & allowed.in_box(points)
    distances = allowed.distance(clean, points).where(reached, torch.inf)
    return distances.cpu(), meter.ledger.passes

"""The nearest adversarial point that is known, for adversaries who see too little to find it."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustkit.attacks import FMN, describe, name_of
from robustkit.evaluation.blocks import parts
from robustkit.evaluation.engine import Engine
from robustkit.evaluation.keeping import measured_once
from robustkit.passes import Passes
from robustkit.threat_models import Access, Meter, grant

FILE = "white_box.json"
_ATTACK = FMN()
_PURPOSE = "white box"


@dataclass(frozen=True, kw_only=True, slots=True)
class WhiteBox:
    """What an attack with gradients found, apart from the verdict.

    Attributes:
        rows: Positions of the examples it was run on.
        distances: How far the nearest point of each is that reached the goal on a fresh pass;
            infinite where none did.
        cost: All its passes, judging included.
    """

    rows: tuple[int, ...]
    distances: tuple[float, ...]
    cost: Passes

    def by_row(self) -> dict[int, float]:
        """The distance for each position."""
        return dict(zip(self.rows, self.distances, strict=True))

    def table(self) -> dict[str, object]:
        """What was run, on how many examples, and what it cost, for the report."""
        return {
            "name": name_of(_ATTACK),
            "options": dict(describe(_ATTACK)),
            "examples": len(self.rows),
            "found": sum(math.isfinite(distance) for distance in self.distances),
            "forward": self.cost.forward,
            "backward": self.cost.backward,
            "rows_run": self.cost.rows_run,
        }


def white_box(
    engine: Engine, rows: Tensor, *, differentiable: bool, folder: Path | None = None
) -> WhiteBox | None:
    """How near the goal can be reached by who sees gradients; None where that cannot be told.

    It is told for threats that grant labels only, where the attack was traced, the model gives
    gradients and answers the same every time, and the attack works in the norm. It decides nothing:
    an example that only this attack breaks has not been broken by the adversary.

    Args:
        engine: A run whose plan is complete.
        rows: (M,) positions of the examples that were right at the start.
        differentiable: Whether the model's answers carry a gradient.
        folder: Where the result is kept, and taken from if it is there.
    """
    threat = engine.threat
    traced = any(group.nearest for group in engine.records.stage(0))
    fits = threat.allowed.norm in _ATTACK.norms and threat.goal.name in _ATTACK.goals
    steady = differentiable and engine.jury is None
    if threat.access is not Access.DECISION or not (traced and fits and steady and len(rows)):
        return None
    return measured_once(folder, FILE, WhiteBox, lambda: _measured(engine, rows))


def _measured(engine: Engine, rows: Tensor) -> WhiteBox:
    engine.progress.stage(f"{name_of(_ATTACK)}, for comparison", len(rows), 0)
    found, cost = [], Passes()
    for part in parts(rows, engine.width):
        distances, passes = _search(engine, part)
        found.append(distances)
        cost += passes
        engine.progress.advance(len(part), 0)
    nearest = torch.cat(found).tolist()
    return WhiteBox(rows=tuple(rows.tolist()), distances=tuple(nearest), cost=cost)


def _search(engine: Engine, rows: Tensor) -> tuple[Tensor, Passes]:
    clean, wanted = engine.inputs(rows), engine.objective(rows)
    allowed, streams = engine.threat.allowed, engine.streams(rows, _PURPOSE)
    # No budget: it is the adversary's.
    meter = Meter(engine.model, streams, width=engine.width)
    view: Any = grant(meter, Access.GRADIENT)
    points = _ATTACK.run(view, clean, wanted, allowed, streams=streams)
    with torch.no_grad():
        output = view.answer(points, torch.arange(len(rows), device=engine.device))
    reached = wanted.reached(output) & allowed.in_box(points)
    distances = allowed.distance(clean, points).where(reached, torch.inf)
    return distances.cpu(), meter.ledger.passes

"""On which examples the sanity flags are measured, at whose expense, and how."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from robustkit.attacks import EvasionAttack
from robustkit.attacks.losses import margin
from robustkit.attacks.rows import Rows
from robustkit.attacks.steps import input_gradient
from robustkit.attacks.stepwise import Stepwise
from robustkit.evaluation.adaptive import patient
from robustkit.evaluation.blocks import narrow, parts
from robustkit.evaluation.draws import DRAWS
from robustkit.evaluation.engine import Engine
from robustkit.evaluation.guards import Inspection
from robustkit.evaluation.plans import Plan
from robustkit.evaluation.summary import Standing, cost_of
from robustkit.passes import Ledger, Passes, padded
from robustkit.report.codec import Count
from robustkit.threat_models import Access, Meter, Objective, ThreatModel, grant

# Fewer examples than this say little.
_LEAST = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """What was measured for a flag.

    Attributes:
        flag: The flag's id; several are joined by a comma.
        measured: What was run, in words; for a measurement left out the reason.
        examples: On how many examples.
        values: The numbers found; None for what is not finite.
        forward: Forward passes.
        backward: Backward passes.
        rows_run: Rows the hardware worked on.
    """

    flag: str
    measured: str
    examples: Count = 0
    values: Mapping[str, float | None] = field(default_factory=dict)
    forward: Count = 0
    backward: Count = 0
    rows_run: Count = 0


class Site:
    """The end of a run, as the measurements find it.

    Attributes:
        engine: What the run has used.
        width: Rows in which the model is run.
        lines: The attacks of the plan.
        total: How many examples there are.
        classes: How many classes the model knows.
        blind: (N,) bool, for the first examples: no loss has a slope on the clean image.
        leads: By how much the right class leads, for each example that is right at first.
        hardest: (M,) positions of the examples that stand, the ones with the least of their lead
            left first; equal ones by id, so that the order of the data does not matter.
        stepped: (M,) positions of those that fell to a single step, the largest lead first.
        left: Passes that may still be spent.
        judging: Passes that judging a point takes.
    """

    def __init__(self, engine: Engine, plan: Plan, standing: Standing, found: Inspection) -> None:
        """Args: the run, its examples after the clean pass, what the checks before it found."""
        self.engine = engine
        self.width = narrow(engine.width)
        self.lines = [line for line in plan if line.role == "plan"]
        self.total = len(engine.data)
        self.classes, self.blind = found.classes, found.blind
        cost, before = cost_of(engine.records, plan), found.passes
        self.left = cost.forward + cost.backward - before.forward - before.backward
        # Passes of a judgement: of a random model, a majority of draws decides.
        self.judging = 1 if engine.jury is None else DRAWS
        for stage in range(len(plan)):
            standing.take(stage, engine.records.stage(stage))
        self.leads: list[float] = (-standing.clean_lead[standing.was_right]).tolist()
        share = standing.best_lead / standing.clean_lead
        # What no attack has measured counts as having nothing left.
        share = torch.where(share.isfinite(), share, 0.0)
        by_id = engine.data.ids.argsort(stable=True)
        fell = [standing.status(row) in ("broken", "misclassified") for row in by_id.tolist()]
        stands = by_id[~torch.tensor(fell)]
        self.hardest = stands[share[stands].argsort(stable=True)]
        steps = [at for at, line in enumerate(plan) if line.one_step]
        fallen = by_id[torch.isin(standing.broken_by[by_id], torch.tensor(steps))]
        self.stepped = fallen[standing.clean_lead[fallen].argsort(stable=True)]

    def affordable(self, rows: Tensor, price: int, share: float, most: int) -> Tensor:
        """The first rows, as many as a share of what is left pays for.

        Where that is very few, up to four are taken as long as all that is left pays for them.

        Args:
            rows: What there is.
            price: Passes for each at most.
            share: Of the passes that are left.
            most: How many are enough.
        """
        wanted = min(len(rows), most)
        count = min(wanted, int(self.left * share) // price)
        if count < _LEAST:
            count = min(wanted, _LEAST, max(self.left, 0) // price)
        return rows[:count]

    def meter(self, rows: Tensor, purpose: str) -> Meter:
        """A counted way to the model for some examples, with streams of its own and no budget.

        What the auditor asks is not the adversary's to pay.
        """
        streams = self.engine.streams(rows, f"flags {purpose}")
        return Meter(self.engine.model, streams, width=self.width)

    def pay(self, ledger: Ledger, extra: int = 0) -> Passes:
        """Take what was spent, and `extra` forward passes, from what is left."""
        passes = ledger.passes + Passes(forward=extra)
        self.left -= passes.forward + passes.backward
        return passes


def broken_by(
    site: Site,
    attack: EvasionAttack[Any],
    rows: Tensor,
    purpose: str,
    threat: ThreatModel | None = None,
) -> tuple[int, Passes]:
    """How many examples an attack breaks, judged on fresh passes, and the cost."""
    engine, broken = site.engine, 0
    attack = attack if engine.jury is None else patient(attack)
    threat = threat or engine.threat
    cost = Passes()
    for part in parts(rows, engine.width):
        streams = engine.streams(part, f"flags {purpose}")
        meter = site.meter(part, purpose)
        view = grant(meter, attack.access)
        clean, wanted = engine.inputs(part), engine.objective(part)
        points = attack.run(view, clean, wanted, threat.allowed, streams=streams)
        achieved = _achieved(site, threat, part, clean, points, wanted, f"flags {purpose} score")
        broken += int(achieved.sum())
        cost += site.pay(meter.ledger, extra=site.judging * len(part))
        cost += Passes(rows_run=site.judging * engine.width)
    return broken, cost


def _achieved(
    site: Site,
    threat: ThreatModel,
    rows: Tensor,
    clean: Tensor,
    points: Tensor,
    wanted: Objective,
    purpose: str,
) -> Tensor:
    """(N,) bool: allowed, and reached on fresh answers; of a random model, on most of its draws."""
    engine = site.engine
    if engine.jury is not None:
        poll = engine.jury.poll(rows, points, wanted, purpose)
        return threat.allowed.contains(clean, points) & (2 * poll.wins > DRAWS)
    every = padded(torch.arange(len(rows)), engine.width)
    verdict = threat.judge(
        engine.model,
        padded(clean, engine.width),
        padded(points, engine.width),
        wanted.take(every.to(engine.device)),
        torch.zeros_like(every, device=engine.device),
        streams=engine.streams(rows[every], purpose),
    )
    return verdict.achieved[: len(rows)]


@torch.enable_grad()
def climb(
    site: Site, attack: Stepwise[Any], rows: Tensor, steps: int, purpose: str
) -> tuple[Tensor, Passes]:
    """The margin at every step of an attack that nothing stops.

    Returns:
        (M, steps + 1): the margin at the start and after each step; the cost.
    """
    engine, seen = site.engine, []
    cost = Passes()
    for part in parts(rows, engine.width):
        meter = site.meter(part, purpose)
        view: Any = grant(meter, Access.GRADIENT)
        index = torch.arange(len(part), device=engine.device)
        streams = engine.streams(part, f"flags {purpose}")
        start = Rows.first(
            engine.inputs(part), engine.objective(part), streams, index, engine.threat.allowed
        )
        state = attack.begin(start)
        margins: list[Tensor] = []
        for _ in range(steps + 1):
            inputs = attack.propose(state).detach().requires_grad_()
            logits = view.logits(inputs, index)
            gradient = input_gradient(attack.gain(state, logits), inputs)
            margins.append(margin(logits.detach(), start.objective))
            with torch.no_grad():
                attack.update(state, logits.detach(), gradient)
        seen.append(torch.stack(margins, dim=1))
        cost += site.pay(meter.ledger)
    return torch.cat(seen).cpu(), cost

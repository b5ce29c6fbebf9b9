"""How many of the examples that the plan `standard` and AutoAttack leave standing can be broken at
all: what any verdict on these models could still gain. All of them are attacked once more by the
margin, from a random start and from where all values are shifted alike, and the ones of which the
least of the lead is left then get what no plan can afford: APGD at all nine wrong classes by the
margin and by the difference of logits ratio, and at none by the cross-entropy and the margin, from
many random starts and from shifted ones, and Square. Every point is judged afresh. A verdict could
be lower than AutoAttack's by what that breaks and by what `standard` breaks alone, and hardly by
more: the leads that are left tell how far off the others are. The folder that ROBUSTKIT_BENCHMARKS
names keeps models and AutoAttack's verdicts (as for `engine`)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustkit import models
from robustkit.attacks import APGD, Square
from robustkit.attacks.losses import margin
from robustkit.attacks.queued import Queued, searched
from robustkit.attacks.rows import Rows
from robustkit.randomness import Streams
from robustkit.threat_models import Access, Objective, grant, load
from tests.benchmarks.engine import Target, autoattack, planned, targets
from tests.benchmarks.keeping import folder, kept

TITLE = "What is left to find beyond AutoAttack"
# The radius that the networks were trained for.
_TRAINED = 0.1
WIDTH = 50
HARDEST = 20
STEPS = 60
LOOKS: tuple[Queued[Any], ...] = (
    APGD(loss="margin", steps=STEPS),
    APGD(loss="margin", steps=STEPS, shift_start=True, restarts=2),
)
HEAVY: tuple[Queued[Any], ...] = (
    APGD(loss="margin", targets=9, restarts=8),
    APGD(loss="margin", targets=9, shift_start=True, restarts=2),
    APGD(loss="dlr", targets=9, restarts=3),
    APGD(loss="cross-entropy", restarts=25),
    APGD(loss="cross-entropy", shift_start=True, restarts=2),
    APGD(loss="margin", restarts=25),
    Square(),
)


def run() -> dict[str, Any]:
    """Each robust target."""
    with folder() as place:
        rows = [
            row(target, autoattack(target, place).standing, place)
            for target in targets(place)
            if target.radius == _TRAINED
        ]
    return {
        "rows": rows,
        "setting": f"linf, eps 0.1 on Fashion-MNIST; the {HARDEST} examples of which the least of "
        f"the lead is left after attempts of {STEPS} steps; seed 0",
    }


def row(target: Target, reference: Tensor, place: Path) -> dict[str, Any]:
    """What is left on one target; kept, since it takes a quarter of an hour."""
    name = f"headroom-{models.fingerprint(target.model)[:16]}"
    depends_on = {"n": len(reference), "attacks": repr((LOOKS, HEAVY, HARDEST))}

    def made() -> dict[str, Any]:
        _, ours = planned(target, "standard")
        return left(target, ours.standing, reference)

    found: dict[str, Any] = kept(place, name, depends_on, made)
    return found


def left(target: Target, ours: Tensor, reference: Tensor) -> dict[str, Any]:
    """What both verdicts leave standing and more effort breaks."""
    standing = (ours & reference).nonzero()[:, 0]
    count = len(ours)
    whole = clean_lead(target, standing)
    broken, spent = torch.zeros(len(standing), dtype=torch.bool), torch.zeros(len(standing))
    share = torch.ones(len(standing))
    finds = []

    def attempt(rows: Tensor, number: int, attack: Queued[Any]) -> None:
        open_rows = rows[~broken[rows]]
        if not len(open_rows):
            return
        fell, lead, passes = attacked(target, standing[open_rows], attack, number)
        broken[open_rows] = fell
        share[open_rows] = share[open_rows].minimum(lead / whole[open_rows])
        spent[open_rows] += passes
        finds.extend([f"{attack!r}"] * int(fell.sum()))

    for number, attack in enumerate(LOOKS):
        attempt(torch.arange(len(standing)), number, attack)
    hardest = share.masked_fill(broken, torch.inf).argsort(stable=True)[:HARDEST]
    for number, attack in enumerate(HEAVY, start=len(LOOKS)):
        attempt(hardest, number, attack)
    remaining = share[hardest][~broken[hardest]]
    found = int((reference & ~ours).sum()) + int(broken.sum())
    return {
        "target": target.name,
        "n": count,
        "AutoAttack, %": 100 * float(reference.double().mean()),
        "standard, %": 100 * float(ours.double().mean()),
        "broken by standard alone": int((reference & ~ours).sum()),
        "attacked again": len(standing),
        "attacked at length": len(hardest),
        "passes for each of these": float(spent[hardest].double().mean()),
        "broken": int(broken.sum()),
        "broken by": "; ".join(finds) or "-",
        "least lead left of these, %": 100 * float(remaining.min()) if len(remaining) else "-",
        "of the last of these, %": 100 * float(remaining.max()) if len(remaining) else "-",
        "lowest known, %": 100 * float(reference.double().mean()) - 100 * found / count,
    }


def attacked(
    target: Target, rows: Tensor, attack: Queued[Any], number: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Which of some examples an attack breaks, the lead it leaves them, and their passes."""
    threat = load("linf").with_radius(target.radius)
    clean, wanted = target.images.inputs(rows), Objective(target.images.labels[rows])
    ids = target.images.ids[rows]
    streams = Streams.of(seed=0, ids=ids, purpose=f"headroom {number}")
    meter = threat.meter(target.model, streams, width=min(WIDTH, len(rows)))
    view: Any = grant(meter, Access.GRADIENT)
    everyone = Rows.first(clean, wanted, streams, torch.arange(len(rows)), threat.allowed)
    points, lead = clean.clone(), torch.zeros(len(rows))
    width = meter.width or 1
    for found in searched(attack, view, iter([everyone]), width=width, pad=True):
        points[found.index], lead[found.index] = found.points, -found.lead
    verdict = threat.judge(target.model, clean, points, wanted, view.spent)
    return verdict.allowed & verdict.reached, lead, view.spent + meter.ledger.backward


@torch.no_grad()
def clean_lead(target: Target, rows: Tensor) -> Tensor:
    """(M,) by how much the right class leads on clean images."""
    logits = target.model(target.images.inputs(rows))
    return -margin(logits, Objective(target.images.labels[rows]))

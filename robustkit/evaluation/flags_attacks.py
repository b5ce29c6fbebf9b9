"""What the reader of a report should know about the attacks that ran."""

from collections.abc import Iterator
from typing import Any

from robustkit.attacks import EvasionAttack, Queued
from robustkit.attacks._eot import EOT
from robustkit.attacks.losses import dlr_classes
from robustkit.evaluation.plans import Plan
from robustkit.evaluation.summary import Tally
from robustkit.report import Flag
from robustkit.threat_models import Access, ThreatModel, Untargeted


def attack_flags(
    plan: Plan, threat: ThreatModel, classes: int, result: Tally, *, over_queries: bool = False
) -> list[Flag]:
    """What the reader should know about the attacks that ran.

    Args:
        plan: What was run.
        threat: The adversary.
        classes: How many classes the model knows.
        result: What came out.
        over_queries: Whether the report holds curves over queries.
    """
    return [
        *_broke_more(plan, result),
        *_budget(plan, threat, over_queries=over_queries),
        *_untried(plan, threat),
        *_foreign(plan),
        *_fallback(plan, threat, classes),
        *_owned_images(plan, threat),
        *_dropped(plan, classes),
    ]


def _broke_more(plan: Plan, result: Tally) -> Iterator[Flag]:
    for row in result.references:
        if row.broken:
            text = (
                f"The reference {row.name} broke {row.broken} of {row.examples_in} examples that "
                "the attacks before it had left standing. They count as broken; run a longer plan."
            )
            yield Flag(id="reference-broke-more", severity="warn", message=text)
    lines = [line for line in plan if line.role != "reference"]
    for line, row in zip(lines, result.attacks, strict=True):
        if line.role == "distances" and row.broken:
            text = (
                f"Measuring distances for the sweep, {row.name} found points inside the radius for "
                f"{row.broken} examples that the attacks before it had left standing. They count "
                "as broken; run a longer plan."
            )
            yield Flag(id="sweep-broke-more", severity="warn", message=text)


def _budget(plan: Plan, threat: ThreatModel, *, over_queries: bool) -> Iterator[Flag]:
    names = [line.name for line in plan if line.role != "reference"]
    budget = threat.budget.queries
    if budget is None or len(names) < 2:
        return
    shown = f" The curves over queries show {names[0]} alone." if over_queries else ""
    text = (
        f"Each of {len(names)} attacks may ask {budget:,} times per example: the worst case over "
        f"them is that of an adversary who asks so often with each.{shown}"
    )
    yield Flag(id="budget-per-attack", severity="info", message=text)


def _untried(plan: Plan, threat: ThreatModel) -> Iterator[Flag]:
    """Attacks of which one step asks more often than the budget lets them."""
    budget = threat.budget.queries
    steps = {line.name: line.attack.draws for line in plan if isinstance(line.attack, Queued)}
    names = [name for name, draws in steps.items() if budget is not None and draws > budget]
    if names:
        text = (
            f"{', '.join(names)} asked nothing: one step takes {max(steps.values())} answers of a "
            f"model that answers at random, and the budget is {budget}. What stands was not "
            "attacked by it. Raise --queries."
        )
        yield Flag(id="asked-nothing", severity="void", message=text)


def _foreign(plan: Plan) -> Iterator[Flag]:
    names = [line.name for line in plan if not line.attack.order_free]
    if names:
        text = f"Results of {', '.join(names)} may depend on which examples share a batch."
        yield Flag(id="foreign-attack", severity="info", message=text)


def _fallback(plan: Plan, threat: ThreatModel, classes: int) -> Iterator[Flag]:
    names = [line.name for line in plan if _lacks_classes(line.attack, threat, classes)]
    if names:
        text = (
            f"With {classes} classes the difference of logits ratio that "
            f"{', '.join(dict.fromkeys(names))} was to raise is not defined; the margin was used."
        )
        yield Flag(id="dlr-fallback", severity="info", message=text)


def _lacks_classes(attack: EvasionAttack[Any], threat: ThreatModel, classes: int) -> bool:
    """Whether an attack asks for the difference of logits ratio where it is not defined."""
    if isinstance(attack, EOT):
        attack = attack.attack
    aims = getattr(attack, "targets", 0) > 0
    needed = dlr_classes(targeted=aims or not isinstance(threat.goal, Untargeted))
    return getattr(attack, "loss", None) == "dlr" and classes < needed


def _owned_images(plan: Plan, threat: ThreatModel) -> Iterator[Flag]:
    names = [line.name for line in plan if line.attack.access == Access.DECISION]
    if names and not isinstance(threat.goal, Untargeted):
        text = (
            f"{', '.join(names)} start from images of the target class that are chosen among the "
            "evaluated ones: with other examples the results may differ."
        )
        yield Flag(id="owned-images", severity="info", message=text)


def _dropped(plan: Plan, classes: int) -> Iterator[Flag]:
    for line in plan:
        dropped = getattr(line.attack, "dropped", None)
        for part, reason in dropped(classes) if dropped else ():
            yield Flag(id="part-dropped", severity="info", message=f"{line.name}: {part}: {reason}")

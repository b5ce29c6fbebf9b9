"""What the reader of a report should know about the attacks that ran."""

from robustkit.evaluation.plans import Plan
from robustkit.evaluation.summary import Tally
from robustkit.report import Flag
from robustkit.threat_models import Access, Goal, Untargeted


def attack_flags(plan: Plan, goal: Goal, classes: int, result: Tally) -> list[Flag]:
    """What the reader should know about the attacks that ran."""
    flags = []
    for row in result.references:
        if row.broken:
            text = (
                f"The reference {row.name} broke {row.broken} of {row.examples_in} examples that "
                "the attacks before it had left standing. They count as broken; run a longer plan."
            )
            flags.append(Flag(id="reference-broke-more", severity="warn", message=text))
    measured = [line for line in plan if line.role != "reference"]
    for line, row in zip(measured, result.attacks, strict=True):
        if line.role == "distances" and row.broken:
            text = (
                f"Measuring distances for the sweep, {row.name} found points inside the radius for "
                f"{row.broken} examples that the attacks before it had left standing. They count "
                "as broken; run a longer plan."
            )
            flags.append(Flag(id="sweep-broke-more", severity="warn", message=text))
    foreign = [line.name for line in plan if not line.attack.order_free]
    if foreign:
        text = f"Results of {', '.join(foreign)} may depend on which examples share a batch."
        flags.append(Flag(id="foreign-attack", severity="info", message=text))
    if classes < 4 and any(getattr(line.attack, "loss", None) == "dlr" for line in plan):
        text = (
            f"With {classes} classes the difference of logits ratio is not defined for every goal; "
            "the margin was used there."
        )
        flags.append(Flag(id="dlr-fallback", severity="info", message=text))
    chosen = [line.name for line in plan if line.attack.access == Access.DECISION]
    if chosen and not isinstance(goal, Untargeted):
        text = (
            f"{', '.join(chosen)} start from images of the target class that are chosen among the "
            "evaluated ones: with other examples the results may differ."
        )
        flags.append(Flag(id="owned-images", severity="info", message=text))
    for line in plan:
        dropped = getattr(line.attack, "dropped", None)
        for part, reason in dropped(classes) if dropped else ():
            flags.append(
                Flag(id="part-dropped", severity="info", message=f"{line.name}: {part}: {reason}")
            )
    return flags

"""All sanity flags of a finished run, in their order."""

from collections.abc import Iterable, Sequence

from robustkit.attacks import Square
from robustkit.evaluation import flags
from robustkit.evaluation.plans import Plan
from robustkit.report import AttackRow, Draws, Flag
from robustkit.statistics import Interval


def sanity_flags(
    *,
    plan: Plan,
    rows: Sequence[AttackRow],
    robust: Interval,
    total: int,
    measured: Iterable[Flag],
    violations: int = 0,
    violators: Sequence[str] = (),
    tally: float | None = None,
    draws: Draws | None = None,
) -> list[Flag]:
    """The flags that a finished run raises, each id once: F1 to F11, then the others.

    Args:
        plan: What was run.
        rows: What each line of it did, references left out, in the same order.
        robust: The headline.
        total: How many examples there are.
        measured: Flags from the checks before the run and from the measurements after it; of two
            with the same id the first is kept.
        violations: Examples that some attack handed back as the threat does not allow.
        violators: Those attacks.
        tally: Robust accuracy by the attacks' own count, for a model that answers at random.
        draws: Robust accuracy on fresh draws, for such a model.
    """
    lines = [line for line in plan if line.role != "reference"]
    # What measures distances comes after everything, on examples that have fallen as well.
    judged = [row for line, row in zip(lines, rows, strict=True) if line.role == "plan"]
    counted = [
        flags.transfer_wins(judged, total),
        _square_of_the_plan(lines, rows),
        flags.violations(violations, violators),
        None if tally is None else flags.redraw_gap(tally, draws, total),
        flags.few_examples(robust, total),
    ]
    found: dict[str, Flag] = {}
    for flag in (*measured, *counted):
        if flag is not None:
            found.setdefault(flag.id, flag)
    return sorted(found.values(), key=_number)


def _square_of_the_plan(lines: Plan, rows: Sequence[AttackRow]) -> Flag | None:
    """F5 from a plan that has Square itself, after attacks with gradients."""
    for at, (line, row) in enumerate(zip(lines, rows, strict=True)):
        white_box = any(before.backward for before in rows[:at])
        if isinstance(line.attack, Square) and line.through == "direct" and white_box:
            return flags.black_box_wins(
                row.broken, row.examples_in, line.attack.queries, sample=False
            )
    return None


def _number(flag: Flag) -> int:
    number = flag.id.removeprefix("F")
    return int(number) if number.isdigit() else 12

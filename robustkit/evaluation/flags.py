"""Signs that a robust accuracy may mislead: when each is raised, and what it says.

Every function takes what was measured and gives a flag or None; `flags_probes` measures what takes
passes. F1 to F11 keep their numbers. Flags without a number are in `flags_surface`.
"""

from collections.abc import Sequence

from robustkit.report import AttackRow, Draws, Flag
from robustkit.statistics import Interval

# One example alone may be chance.
FEW = 2

_TRANSFER = 0.02
_TOP_GRADIENT = 0.05
_TIES = 0.005
_SQUARE_PLAN = 0.02
_SQUARE_SAMPLE = 0.1
_CONVERGED = 0.01
_ONE_STEP = 1 / 3
_STEP_AFTER_MANY = 0.1
_REDRAW = 0.03
_EXAMPLES = 1000
_HALF_WIDTH = 0.03


def random_answers(differing: int, examples: int, calls: int) -> Flag | None:
    """F1: the model answers identical calls differently.

    Args:
        differing: Examples whose logits were not the same in all calls.
        examples: How many were asked about.
        calls: How often each was asked about.
    """
    if not differing:
        return None
    return Flag(
        id="F1",
        severity="unlisted",
        message=f"Random answers: {calls} identical calls gave different logits for {differing} of "
        f"{examples} images. The score is one draw among many, and an attack that sees one draw is "
        "weaker than one that averages. Judge the model over many fresh draws; it is not ranked "
        "beside deterministic ones.",
    )


def transfer_wins(rows: Sequence[AttackRow], total: int) -> Flag | None:
    """F2: a stand-in or a replaced backward pass breaks what direct gradient attacks do not.

    Only attacks that follow the last direct gradient attack tell: an example that fell before it
    might have fallen to it as well.

    Args:
        rows: The attacks, in the order in which they ran.
        total: How many examples the evaluation has.
    """
    direct = [at for at, row in enumerate(rows) if row.through == "direct" and row.backward]
    if not direct:
        return None
    ways: dict[str, int] = {}
    for row in rows[direct[-1] + 1 :]:
        if row.broken and (row.through == "bpda" or row.through.startswith("surrogate:")):
            ways[row.through] = ways.get(row.through, 0) + row.broken
    broken = sum(ways.values())
    if broken < FEW or broken <= _TRANSFER * total:
        return None
    told = ", ".join(f"{count} through {through}" for through, count in ways.items())
    return Flag(
        id="F2",
        severity="void",
        message=f"Transfer beats direct attacks: {broken} of {total} examples withstood every "
        f"gradient attack on the model itself and fell otherwise ({told}). The model's own "
        "gradients mislead. Quote the worst case alone, never the accuracy under direct attacks.",
    )


def dead_gradients(loss: int, top: int | None, examples: int, which: str) -> Flag | None:
    """F3: gradients are exactly zero, so that gradient attacks do not move.

    Args:
        loss: Examples on which neither the cross-entropy nor the margin has a gradient.
        top: Examples on which the largest logit has none; None where nobody has looked.
        examples: How many were looked at.
        which: What they are: `standing examples`.
    """
    if not loss and (top or 0) <= _TOP_GRADIENT * examples:
        return None
    logit = "" if top is None else f" and that of the largest logit for {top}"
    return Flag(
        id="F3",
        severity="void",
        message=f"Dead gradients: on {examples} {which}, the gradient of the loss is exactly "
        f"zero for {loss}{logit}. Gradient attacks are blind there, and their "
        "number says nothing. Attack a differentiable stand-in, and by scores (square).",
    )


def top_ties(ties: int, examples: int) -> Flag | None:
    """F4: the two largest logits are exactly equal too often.

    Args:
        ties: Examples with such logits.
        examples: How many were looked at.
    """
    if ties <= _TIES * examples:
        return None
    return Flag(
        id="F4",
        severity="void",
        message=f"Exact ties: the two largest logits are equal for {ties} of {examples} clean "
        "images. Real numbers do not tie: something sorts, rounds or clips the logits, which hides "
        "gradients, and the order of the classes decides. Attack what lies before that step.",
    )


def black_box_wins(broken: int, examples: int, queries: int, *, sample: bool) -> Flag | None:
    """F5: Square, which sees no gradients, breaks what every gradient attack left standing.

    Args:
        broken: How many examples it broke.
        examples: How many it was given.
        queries: How many queries it had for each.
        sample: Whether these were the hardest few; otherwise all that stood.
    """
    if broken < FEW or broken <= (_SQUARE_SAMPLE if sample else _SQUARE_PLAN) * examples:
        return None
    return Flag(
        id="F5",
        severity="void",
        message=f"Black box beats white box: Square broke {broken} of "
        f"{f'the {examples} hardest' if sample else f'all {examples}'} examples that gradient "
        f"attacks left standing, with {queries} queries each. Gradients are masked, or the attacks "
        "are too weak. Run --plan thorough, and attacks by scores or labels on all examples.",
    )


def violations(count: int, names: Sequence[str]) -> Flag | None:
    """F6: attacks handed back what the threat model does not allow.

    Args:
        count: For how many examples.
        names: The attacks that did.
    """
    if not count:
        return None
    return Flag(
        id="F6",
        severity="unlisted",
        message=f"Violations: {count} examples came back outside the perturbation set, over the "
        "budget, or not as a tensor of the images' shape and type "
        f"({', '.join(dict.fromkeys(names))}). What is not allowed breaks nothing, so that the "
        "accuracy may be too high. Correct the attack and run it again.",
    )


def not_converged(broken: int, examples: int, total: int, doubled: str) -> Flag | None:
    """F7: with twice the steps, more examples fall.

    Args:
        broken: How many fell.
        examples: How many of the hardest were tried.
        total: How many examples the evaluation has.
        doubled: The attack and its steps.
    """
    if broken < FEW or broken <= _CONVERGED * total:
        return None
    return Flag(
        id="F7",
        severity="warn",
        message=f"Not converged: {doubled} broke {broken} more of the {examples} hardest examples, "
        f"at least {broken / total:.1%} of all. The accuracy would go on falling with more effort. "
        "Run --plan thorough, or more steps and restarts, until the number stays.",
    )


def survives_everything(
    standing: int, examples: int, share: float, classes: int, radius: float
) -> Flag | None:
    """F8: the accuracy is above chance where an attack may do almost anything.

    Args:
        standing: Examples that stand at the huge radius.
        examples: How many of those that stood at the radius of the threat were tried.
        share: What share of all examples stood there.
        classes: How many classes the model knows.
        radius: The huge radius.
    """
    accuracy = share * standing / max(examples, 1)
    if standing < FEW or accuracy <= 1 / classes:
        return None
    return Flag(
        id="F8",
        severity="warn",
        message=f"A huge radius does not break it: at radius {radius:g}, from which a plain grey "
        f"image can be reached, {standing} of {examples} examples still stand, which makes an "
        f"accuracy of about {accuracy:.0%} where chance is {1 / classes:.0%}. No classifier can do "
        "that: the attacks fail, whatever the radius. Do not trust the headline.",
    )


def one_step_wins(lost: int, examples: int, *, reverse: bool) -> Flag | None:
    """F9: one large step breaks what many small ones do not.

    Args:
        lost: Examples that one step breaks and several steps do not.
        examples: How many were tried.
        reverse: Whether one step was tried on what had withstood several, not the other way round.
    """
    if lost < FEW or lost <= (_STEP_AFTER_MANY if reverse else _ONE_STEP) * examples:
        return None
    tried = (
        f"FGSM broke {lost} of {examples} examples that attacks with many steps left standing"
        if reverse
        else f"of {examples} examples that FGSM broke, {lost} withstood several steps of PGD"
    )
    return Flag(
        id="F9",
        severity="warn",
        message=f"One step beats many: {tried}. Small steps follow a gradient that does not lead "
        "far: it is masked, or the surface is rough. Run attacks with large steps and random "
        "starts, and by scores (square).",
    )


def redraw_gap(tally: float, draws: Draws | None, total: int) -> Flag | None:
    """F10: what attacks claim to have broken does not stay broken on fresh draws.

    Args:
        tally: Robust accuracy by the attacks' own count, on the draws of their search.
        draws: Robust accuracy on fresh draws; None for a model without any.
        total: How many examples the evaluation has.
    """
    gap = 0.0 if draws is None else abs(draws.mean.value - tally)
    if draws is None or gap <= _REDRAW or gap * total < FEW:
        return None
    return Flag(
        id="F10",
        severity="warn",
        message=f"Luck of the draw: {tally:.1%} stand by the attacks' own count and "
        f"{draws.mean.value:.1%} on {draws.count} fresh draws. Attacks found lucky draws, not "
        "changes that work. Quote the mean over fresh draws, and attack with gradients averaged "
        "over draws.",
    )


def few_examples(interval: Interval, total: int) -> Flag | None:
    """F11: too few examples for the digits that are printed.

    Args:
        interval: The headline and its interval.
        total: How many examples the evaluation has.
    """
    half = (interval.high - interval.low) / 2
    if total >= _EXAMPLES and half <= _HALF_WIDTH:
        return None
    return Flag(
        id="F11",
        severity="info",
        message=f"Few examples: {total}, so that the accuracy is known to +-{100 * half:.1f} "
        f"points. Differences below that are noise. Evaluate at least {_EXAMPLES} examples, and "
        "compare models on the same ones.",
    )

"""Signs that the surface on which attacks climb is not what they take it for."""

import math
from collections.abc import Sequence

from robustkit.evaluation.flags import FEW
from robustkit.report import Flag

_FLAT = 0.2
_STEP_SIZES = 1.5
_SATURATED = 0.5
# Smaller terms do not change a float32 sum that begins with 1.
_ROUNDING = math.log(2.0**-24)


def flat_loss(flat: int, examples: int, steps: int) -> Flag | None:
    """The loss does not rise although an attack climbs it.

    Args:
        flat: Examples on which it does not.
        examples: How many were tried.
        steps: How many steps were made.
    """
    if flat < FEW or flat <= _FLAT * examples:
        return None
    return Flag(
        id="loss-not-rising",
        severity="warn",
        message=f"The loss does not rise: after {steps} steps of PGD it is no higher than on the "
        f"clean image for {flat} of {examples} examples. The gradient does not point where the "
        "loss grows. Attack a differentiable stand-in, and by scores (square).",
    )


def step_sensitive(gains: Sequence[float], examples: int) -> Flag | None:
    """What an attack gains depends on the length of its steps.

    Args:
        gains: By how much the margin rose on average, for each length; not finite for a model
            that answers so.
        examples: How many examples were tried.
    """
    best, worst = max(gains), min(gains)
    if examples < FEW or not all(map(math.isfinite, gains)):
        return None
    if best <= 0 or best <= _STEP_SIZES * worst:
        return None
    told = ", ".join(f"{gain:.3g}" for gain in gains)
    return Flag(
        id="step-size",
        severity="warn",
        message=f"Sensitive to the step size: on {examples} examples, PGD with half, equal and "
        f"double steps raised the margin by {told}. A verdict that depends on this setting is not "
        "settled. Try several step sizes, or attacks that choose their own (apgd).",
    )


def saturated(leads: Sequence[float], classes: int) -> Flag | None:
    """The softmax is exactly 1 in float32, where a plain cross-entropy has lost its gradient.

    Args:
        leads: By how much the right class leads the next one in logits, on examples it wins.
        classes: How many classes the model knows.
    """
    certain = -_ROUNDING + math.log(max(classes - 1, 1))
    count = sum(lead > certain for lead in leads)
    if count <= _SATURATED * len(leads):
        return None
    return Flag(
        id="saturated-logits",
        severity="warn",
        message=f"Saturated logits: for {count} of {len(leads)} clean images the softmax is "
        "exactly 1 in float32. A cross-entropy written the usual way has lost its gradient there. "
        "That of robustkit keeps it up to leads of about 100, the margin always. For attacks of "
        "other packages, divide the logits by a constant.",
    )

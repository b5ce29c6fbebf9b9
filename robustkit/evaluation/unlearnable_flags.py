"""Controls of an audit of unlearnable data, and signs that its number may mislead."""

from collections.abc import Mapping

from robustkit.report import Control, Flag
from robustkit.statistics import Interval
from robustkit.unlearnable.audit import (
    CLEAN,
    ON_CLEAN,
    PERMUTED_KEY,
    PLAIN,
    PUBLISHED,
    SAME_KEY,
    UNIVERSAL,
    Findings,
    Material,
)
from robustkit.unlearnable.choosing import accuracy, mean
from robustkit.unlearnable.outcomes import Bits
from robustkit.unlearnable.summary import Summary, difference

# Fewer images on which the verdict is measured leave an interval wider than three points.
_FEW = 1000


def controls(findings: Findings, found: Summary) -> tuple[Control, ...]:
    """Plain training where the answer is known."""
    clean, published = (_right(findings, on, ON_CLEAN) for on in (CLEAN, PUBLISHED))
    lost = difference(clean, published)
    rows = [
        _control(
            "plain training on the originals",
            accuracy(mean(clean)),
            f"The published data costs plain training {_points(lost)}.",
        )
    ]
    if (PLAIN, UNIVERSAL) in findings.outcomes:
        universal = _right(findings, UNIVERSAL, ON_CLEAN)
        owed = difference(universal, published)
        rows.append(
            _control(
                "one change for all classes",
                accuracy(mean(universal)),
                f"That the change tells the class costs {_points(owed)} more than the change "
                "itself.",
            )
        )
    (row,) = (row for row in found.learners if row.name == PLAIN)
    for name, share, message in (
        (SAME_KEY, row.same_key, "High where the change was learnt and not the classes."),
        (PERMUTED_KEY, row.permuted_key, "Low where the change was learnt and not the classes."),
    ):
        if share is not None:
            rows.append(_control(f"test images under the {name}", share, message))
    return tuple(rows)


def _control(name: str, share: Interval, message: str) -> Control:
    return Control(
        name=name,
        metric="accuracy",
        value=share.value,
        low=share.low,
        high=share.high,
        message=message,
    )


def _right(findings: Findings, on: str, test: str) -> list[Bits]:
    return [outcome.right[test] for outcome in findings.outcomes[PLAIN, on]]


def _points(difference: Interval) -> str:
    low, high = 100 * difference.low, 100 * difference.high
    return f"{100 * difference.value:.1f} points ({low:.1f} to {high:.1f})"


def flags(
    findings: Findings,
    found: Summary,
    options: Mapping[str, object],
    changed: float,
    material: Material,
) -> tuple[Flag, ...]:
    """What the reader should know of the verdict."""
    return (
        *_about_the_figures(findings, found, material),
        *_about_the_set(findings, options, changed, material),
    )


def _about_the_figures(findings: Findings, found: Summary, material: Material) -> list[Flag]:
    rows = []
    chance = 1 / material.test.classes
    if max(row.reference.low for row in found.learners) <= chance:
        text = (
            "No learner learns anything from the originals: that none learns from the published "
            "data says nothing. Train longer, or with another --model."
        )
        rows.append(Flag(id="reference-failed", severity="void", message=text))
    broken = sorted(
        {
            f"{learner} on {on}"
            for (learner, on), outcomes in findings.outcomes.items()
            if any(outcome.stopped_by == "diverged" for outcome in outcomes)
        }
    )
    if broken:
        text = f"The loss became NaN; the last good epoch counts: {', '.join(broken)}."
        rows.append(Flag(id="diverged", severity="warn", message=text))
    scored = len(material.test) - found.best.n
    if scored < _FEW:
        text = f"The verdict is about {scored} images only; mind its interval."
        rows.append(Flag(id="few-examples", severity="warn", message=text))
    if len(findings.outcomes[PLAIN, PUBLISHED]) == 1:
        text = (
            "Every training ran once: the intervals do not hold what another seed would change. "
            "Repeat them: --seeds 3."
        )
        rows.append(Flag(id="one-seed", severity="info", message=text))
    if found.choice.name.partition(":")[0] == "key-leak":
        text = "The best learner knows one original per class: protection ends with such a leak."
        rows.append(Flag(id="leaked-originals", severity="info", message=text))
    return rows


def _about_the_set(
    findings: Findings, options: Mapping[str, object], changed: float, material: Material
) -> list[Flag]:
    rows = []
    clean, published = (_right(findings, on, ON_CLEAN) for on in (CLEAN, PUBLISHED))
    if difference(clean, published).low <= 0:
        text = "Plain training loses nothing that could be told from chance: nothing is protected."
        rows.append(Flag(id="nothing-lost", severity="warn", message=text))
    if changed < 1:
        text = (
            f"{100 * changed:.1f} % of the images were changed. Protection of this kind needs all "
            "of them: who trains has the clean ones."
        )
        rows.append(Flag(id="partly-published", severity="warn", message=text))
    if options.get("legacy_seed") is not None:
        text = "The key is a seed of 32 bits, which can be tried out: whoever does has the filters."
        rows.append(Flag(id="guessable-key", severity="warn", message=text))
    if not material.keyed:
        text = (
            "The key was not given: what was learnt in place of the classes is not tested, nor one "
            "change for all of them."
        )
        rows.append(Flag(id="no-key", severity="info", message=text))
    return rows

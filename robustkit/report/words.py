"""How a report says things, in a terminal and on a page alike."""

import math
import unicodedata
from collections.abc import Iterable, Mapping
from fractions import Fraction

from robustkit.report.base import Report
from robustkit.report.corruptions import CorruptionsReport
from robustkit.report.evasion import AttackRow, Curves, EvasionReport, QueriesPoint, Skipped
from robustkit.report.parts import Flag, PerturbationFacts, ThreatFacts
from robustkit.report.unlearnable import UnlearnableReport

METRICS = {
    "robust_accuracy": "Robust accuracy",
    "clean_accuracy": "Clean accuracy",
    "mean_accuracy": "Mean accuracy under corruption",
    "best_learner_accuracy": "Clean accuracy of the best learner",
    "best_reference": "The same learner on the originals",
    "plain_training": "Plain training (erm)",
    "plain_reference": "Plain training on the originals",
    "direct": "Under attacks on the model itself",
    "surrogate": "Under attacks through stand-ins",
    "majority": "Right on most draws",
    "all": "Right on every draw",
}

_QUERIES = ("Queries", "q25", "Median", "q75", "Success")

# The worst first.
SEVERITIES = {
    "void": "the number is not valid",
    "unlisted": "valid, but no leaderboard shows it",
    "warn": "look into it",
    "info": "good to know",
}

# It is about the accuracy under direct attacks; the headline is the worst case.
_DIRECT_ONLY = "F2"

_ACCESS = {
    "gradient": "White box: the adversary sees the whole model, gradients included.",
    "score": "The adversary sees the model's scores, but no gradients.",
    "decision": "The adversary sees the model's labels and nothing else.",
}

_BEFORE_TRAINING = "The adversary acts before training: it sees the data and no model."

_GOALS = {
    "availability": "It wins if whoever trains on the data is right on little clean data.",
    "untargeted": "It wins with any wrong answer.",
    "targeted:random": "It wins with one wrong class, drawn at random for each example.",
    "targeted:least-likely": "It wins with the class that the model finds least likely.",
    "targeted:second": "It wins with the wrong class that the model finds likeliest.",
    "targeted:given": "It wins with one wrong class, given for each example.",
}

_CHANGES = {
    "linf": "It may change every value by at most {radius}",
    "l2": "It may make any change of a Euclidean length of at most {radius}",
    "l1": "It may make any change whose absolute values add up to at most {radius}",
    "l0": "It may change any {radius} pixels",
    "patch": "It may change anything inside one rectangle of {height} x {width} pixels",
    "convolution": "It may filter each image with {kernel} x {kernel} taps and scale the result",
}

# Control, format (direction, zero width), surrogate, private and unassigned characters; line and
# paragraph separators.
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def printable(text: str) -> str:
    r"""Text from a stranger on one line, with everything that could steer a terminal spelt out.

    Example:
        >>> printable("a\nb\x1b[31m")
        'a b\\x1b[31m'
    """
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character.isspace():
        return " "
    if unicodedata.category(character) not in _UNPRINTABLE:
        return character
    if character.isascii():
        return f"\\x{ord(character):02x}"
    return character.encode("ascii", "backslashreplace").decode()


def invalid(report: Report) -> bool:
    """Whether a flag says that the headline is not valid."""
    return any(flag.severity == "void" and flag.id != _DIRECT_ONLY for flag in report.flags)


def worst_first(flags: Iterable[Flag]) -> list[Flag]:
    """Flags by severity; those of one severity stay in their order."""
    severities = list(SEVERITIES)
    return sorted(flags, key=lambda flag: severities.index(flag.severity))


def metric(name: str) -> str:
    """What a metric is called in a heading."""
    return METRICS.get(name, name.replace("_", " ").capitalize())


def percent(share: float) -> str:
    """A share with one decimal."""
    return f"{100 * share:.1f} %"


def seconds(time: float) -> str:
    """A duration in two units at most."""
    if time < 9.95:
        return f"{time:.1f} s"
    whole = round(time)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def brief(time: float) -> str:
    """A duration in one unit, for a narrow column."""
    if time < 59.5:
        return seconds(time)
    return f"{time / 60:.1f} min" if time < 3597 else f"{time / 3600:,.1f} h"


def compact(count: int) -> str:
    """A count in at most seven characters, rounded from a million on."""
    for size, unit in ((10**12, "T"), (10**9, "G"), (10**6, "M")):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return f"{count:,}"


def number(value: float) -> str:
    """A number with four digits, and the fraction of 255 where it is one."""
    if not math.isfinite(value):
        return "infinity"
    steps = value * 255
    if 0 < value < 1 and math.isclose(steps, round(steps), rel_tol=1e-6):
        return f"{round(steps)}/255 ({value:.4g})"
    return f"{value:,.0f}" if value == round(value) else f"{value:.4g}"


def options(table: Mapping[str, object]) -> str:
    """Hyper-parameters in one line."""
    return ", ".join(f"{key}={_plain(value)}" for key, value in table.items())


def _plain(value: object) -> str:
    if isinstance(value, float):
        simple = Fraction(value).limit_denominator(255)
        return f"{value:.4g}" if float(simple) != value else f"{value:g}"
    return "none" if value is None else str(value)


def adversary(report: Report) -> str:
    """Whom the model of a report was up against, in a few sentences."""
    if isinstance(report, CorruptionsReport):
        return (
            f"Nobody attacks: {len(report.grid)} corruptions, each at five severities, happen to "
            "every image, drawn without a look at the model. The number says nothing about an "
            "adversary."
        )
    return threat(report.threat)


def subject(report: Report) -> str:
    """What a report is about: a model, or a published set."""
    if isinstance(report, UnlearnableReport):
        return report.publication.data.spec
    return report.model.spec


def threat(facts: ThreatFacts) -> str:
    """The adversary in a few sentences."""
    sees = _ACCESS.get(facts.access, f"Access: {facts.access}.")
    sentences = [_BEFORE_TRAINING if facts.stage == "training" else sees]
    if facts.perturbation is not None:
        sentences.append(_change(facts.perturbation))
    if facts.poison_rate is not None:
        relabel = " and relabel it" if facts.may_relabel else ""
        share = percent(facts.poison_rate)
        sentences.append(f"It may change {share} of the training data{relabel}.")
    sentences.append(_GOALS.get(facts.goal, f"Its goal: {facts.goal}."))
    if facts.queries is not None:
        times = "once" if facts.queries == 1 else f"{facts.queries:,} times"
        sentences.append(f"It may ask {times} per example.")
    return " ".join(sentences)


def _change(allowed: PerturbationFacts) -> str:
    sides = {side: allowed.options.get(side, "?") for side in ("height", "width", "kernel")}
    radius = "any number" if allowed.radius is None else number(allowed.radius)
    # Only our own words are templates: a stranger's would reach into the values.
    words = (
        _CHANGES[allowed.norm].format(radius=radius, **sides)
        if allowed.norm in _CHANGES
        else f"What it may change: {allowed.norm}, up to {radius}"
    )
    return f"{words}, within [{allowed.low:g}, {allowed.high:g}]."


def shares(report: Report) -> list[tuple[str, float, float, float]]:
    """What stands at the head of a report: name, value, low, high; the verdict first."""
    verdict = report.verdict
    rows = [(verdict.metric, verdict.value, verdict.low, verdict.high)]
    found = {}
    if isinstance(report, EvasionReport | CorruptionsReport):
        found["clean_accuracy"] = report.clean_accuracy
    if isinstance(report, UnlearnableReport):
        (plain,) = (row for row in report.learners if row.name == "erm")
        found["best_reference"] = report.best.reference
        found["plain_training"], found["plain_reference"] = plain.last, plain.reference
    if isinstance(report, EvasionReport) and report.accuracies.surrogate is not None:
        found["direct"] = report.accuracies.direct
        found["surrogate"] = report.accuracies.surrogate
    if isinstance(report, EvasionReport) and report.draws is not None:
        found["majority"], found["all"] = report.draws.majority, report.draws.all
    return [*rows, *((name, one.value, one.low, one.high) for name, one in found.items())]


def left(report: EvasionReport) -> list[tuple[AttackRow, float]]:
    """Each attack with the share of all examples that still stood after it.

    Of a random model, examples are counted as their status is, by most draws.
    """
    n = max(report.data.n, 1)
    standing = sum(example.status != "misclassified" for example in report.examples)
    rows = []
    for row in report.attacks:
        standing -= row.broken
        rows.append((row, max(standing, 0) / n))
    return rows


def over_queries(curves: Curves) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Titles and rows of a table: queries, quartiles of the distance, success.

    Where the nearest points are known, also the median distance in units of theirs.
    """
    more = () if curves.nearest is None else ("\u00d7 nearest known",)
    points = curves.queries or ()
    return (*_QUERIES, *more), tuple((*_distances(point), *_times(point, more)) for point in points)


def nearest(curves: Curves) -> str:
    """How near the nearest points are that are known, in a sentence; empty if nobody has looked."""
    if curves.nearest is None:
        return ""
    median = curves.nearest.median
    if median is None:
        return "No attack has reached half of the examples at any distance, with gradients or not."
    return (
        "The nearest points known, found with gradients or without, lie at a median distance of "
        f"{median:.4g}."
    )


def effort(curves: Curves) -> str:
    """What more passes might find, in a sentence; empty where that is not known."""
    found = curves.effort
    if found is None:
        return ""
    fell = f"{found.broken:,} example" + ("" if found.broken == 1 else "s")
    return (
        f"The second half of the search, {found.passes:,} passes, broke {fell}: as many again "
        f"would break {found.more_at_most:.1f} more on average at most (95 %)."
    )


def _distances(point: QueriesPoint) -> tuple[str, ...]:
    quartiles = (point.q25, point.median, point.q75)
    told = ("not reached" if value is None else f"{value:.4g}" for value in quartiles)
    return (f"{point.queries:,}", *told, percent(point.success))


def _times(point: QueriesPoint, titles: tuple[str, ...]) -> tuple[str, ...]:
    times = point.times_nearest
    return tuple("not reached" if times is None else f"{times:.3g}" for _ in titles)


def by_reason(skipped: Iterable[Skipped]) -> dict[str, list[str]]:
    """The names of what was skipped, under each reason, in their order."""
    reasons: dict[str, list[str]] = {}
    for entry in skipped:
        reasons.setdefault(entry.reason, []).append(entry.name)
    return reasons

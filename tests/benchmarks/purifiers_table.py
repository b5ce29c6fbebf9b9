"""The table of the benchmark `purifiers`, and what follows from it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from robustkit.statistics import paired_difference
from tests.benchmarks.crossmax import always, chosen, paired_mean, share
from tests.benchmarks.crossmax_matrix import Drawn

DRAWS = (10, 20)
# Clean accuracy that a defense may cost.
MARGIN = 0.05
PLAIN, MEAN, CONTEXT, OBJECT, FUSION = (
    "plain classifier",
    "mean of the branches",
    "context alone",
    "object alone",
    "contextual fusion",
)
MEANS, DRAWN = "LQ-VAE, means", "LQ-VAE, drawn"
COLUMNS = (PLAIN, MEAN, CONTEXT, OBJECT, FUSION, MEANS, DRAWN)
Bits = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Found:
    """What was measured at one radius.

    Attributes:
        plain: By row and column, which images stand, without the filter that draws.
        drawn: By row, how often that filter is right.
    """

    plain: Mapping[str, Mapping[str, Sequence[bool]]]
    drawn: Mapping[str, Drawn]

    def stands(self, column: str, rows: Sequence[str]) -> Bits:
        """Which images are right and stand in all of some rows that the column has."""
        known = [self.plain.get(row, {}) for row in ("clean", *rows)]
        own = [row[column] for row in known if column in row]
        every: Bits = np.all(np.array(own, dtype=bool), axis=0)
        return every

    def right(self, rows: Sequence[str]) -> np.ndarray[Any, Any]:
        """(N,) the share of fresh draws on which the filter that draws is right."""
        if not rows:
            return np.array(self.drawn["clean"].fresh["filtered"]) / DRAWS[1]
        return chosen(self.drawn, "filtered", rows) / DRAWS[1]

    def rows(self, word: str = "") -> list[str]:
        """The attacks whose names begin so."""
        named = dict.fromkeys([*self.plain, *self.drawn])
        return [row for row in named if row != "clean" and row.startswith(word)]


def naive(column: str, found: Found) -> list[str]:
    """The rows that a careless author would report."""
    if column == FUSION:
        return [row for row in found.rows() if row.endswith("branch")]
    return found.rows("direct")


def table(radius: str, found: Found) -> list[dict[str, Any]]:
    """The rows as they are printed."""
    groups: dict[str, Callable[[str], Sequence[str]]] = {
        "clean": lambda _: (),
        **{name: partial(always, [name]) for name in found.rows()},
        "naive": lambda column: naive(column, found),
        "worst case": lambda _: found.rows(),
    }
    rows = []
    for label, choose in groups.items():
        row = {"eps": radius, "attack": label}
        for column in COLUMNS:
            row[column] = cell(column, choose(column), found)
        rows.append(row)
    return rows


def cell(column: str, rows: Sequence[str], found: Found) -> str:
    """One figure with its interval; empty where the column has no such rows."""
    if column == DRAWN:
        own = [row for row in rows if row in found.drawn]
        right = found.right(own)
        return share(float(right.sum()), len(right)) if own or not rows else ""
    own = [row for row in rows if column in found.plain.get(row, {})]
    bits = found.stands(column, own)
    return share(float(bits.sum()), len(bits)) if own or not rows else ""


def figures(value: float, low: float, high: float) -> str:
    """A difference in points, with its interval."""
    return f"{100 * value:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"


def paired(first: Bits, second: Bits) -> tuple[float, float, float]:
    """The difference of two shares of the same images."""
    found = paired_difference(first, second)
    return found.value, found.low, found.high


def sign(value: float, low: float, high: float) -> str:
    """What an interval says of a difference."""
    if low <= 0 <= high:
        return "no difference is shown"
    return "a gain is left that these attacks do not remove" if value > 0 else "a loss"


def cost(found: Found) -> list[str]:
    """What each defense costs in clean accuracy, and whether that is within the margin."""
    plain = found.stands(PLAIN, [])
    differences = {
        FUSION: paired(found.stands(FUSION, []), plain),
        MEANS: paired(found.stands(MEANS, []), plain),
        DRAWN: paired_mean(found.right([]) - plain),
    }
    told = []
    for name, (value, low, high) in differences.items():
        if low >= -MARGIN:
            verdict = f"within {100 * MARGIN:.0f} points of it"
        elif value >= -MARGIN:
            verdict = f"within {100 * MARGIN:.0f} points of it, but the interval reaches beyond"
        else:
            verdict = f"**failed**: it costs more than {100 * MARGIN:.0f} points"
        told.append(
            f"Clean accuracy of {name} against the {PLAIN}: {figures(value, low, high)}: {verdict}."
        )
    return told


def fusion_conclusions(radius: str, found: Found, best: str) -> list[str]:
    """Whether the fusion withstands more than what it is made of."""
    seen, worst = found.stands(FUSION, naive(FUSION, found)), found.stands(FUSION, found.rows())
    direct = found.stands(FUSION, found.rows("direct"))
    first = (
        f"eps {radius}: attacks on one branch alone leave {FUSION} {100 * seen.mean():.1f} %, "
        f"attacks on itself {100 * direct.mean():.1f} %; in the worst case it has "
        f"{100 * worst.mean():.1f} %."
    )
    told = [first]
    for other in (MEAN, best, PLAIN):
        gap = paired(worst, found.stands(other, found.rows()))
        told.append(
            f"eps {radius}: {FUSION} against the {other}, worst case: {figures(*gap)}: "
            f"{sign(*gap)}."
        )
    return told


def filter_conclusions(radius: str, found: Found) -> list[str]:
    """What is left of the filter's advantage over the classifier behind it."""
    plain = found.stands(PLAIN, found.rows())
    told = []
    for name in (MEANS, DRAWN):
        if name == MEANS:
            direct = found.stands(MEANS, found.rows("direct")).astype(float)
            worst = found.stands(MEANS, found.rows()).astype(float)
        else:
            attacks = [row for row in found.drawn if row != "clean"]
            direct = found.right([row for row in attacks if row.startswith("direct")])
            worst = found.right(attacks)
        credit, gain = paired_mean(direct - plain), paired_mean(worst - plain)
        told.append(
            f"eps {radius}: direct attacks credit {name} with {100 * direct.mean():.1f} %, "
            f"{figures(*credit)} over the {PLAIN}; in the worst case it has "
            f"{100 * worst.mean():.1f} %, {figures(*gain)}: {sign(*gain)}."
        )
    return [*told, converged(radius, found)]


def converged(radius: str, found: Found) -> str:
    """How far apart the long searches of the filter that draws end, and what one of them adds."""
    long = [row for row in found.drawn if "average" in row]
    ends = {row: float(found.right([row]).mean()) for row in long}
    best = min(ends, key=lambda row: ends[row])
    more = paired_mean(found.right(long) - found.right([best]))
    listed = "; ".join(f"{row} {100 * end:.1f} %" for row, end in ends.items())
    return (
        f"eps {radius}: the long searches of the filter that draws end at {listed}. The best of "
        f"all of them, image by image, against the best one alone: {figures(*more)}."
    )

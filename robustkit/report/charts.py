"""The curves of a report as pictures: where every line, mark and label of a chart goes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from robustkit.report import words
from robustkit.report.evasion import Curves, DistancePoint, EvasionReport, QueriesPoint
from robustkit.report.scales import BOTTOM, SHARES, TOP, Scale, Tick, short

Point = tuple[float, float]

_PASSES_NOTE = "Examples still standing after so many passes, forward and backward, per example."
_QUERIES_NOTE = (
    "The line is the median of the smallest changes found, the band holds the middle half of the "
    "examples. Where either is missing, it was not reached."
)
_NOT_REACHED = "The median distance was not reached."


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One curve.

    Attributes:
        path: As SVG writes it.
        strength: Opacity in (0, 1]: the most important curve is the strongest.
        name: What the legend calls it; empty for the only one.
    """

    path: str
    strength: float = 1.0
    name: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A picture of curves.

    Attributes:
        title: What is shown.
        note: How to read it.
        summary: The picture in words, for who cannot see it.
        across: Name of the horizontal axis.
        up: Name of the vertical axis.
        columns: Ticks of the horizontal axis.
        rows: Ticks of the vertical axis.
        lines: The curves, the weakest first.
        marks: Dots.
        band: An area behind the curves, as SVG writes it; empty for none.
        radius: Where the threat model's radius lies, in units of the picture; None if it does not.
        upright: Whether the radius is a place on the horizontal axis.
        nearest: How high the median of the nearest points known lies; None if it does not.
        head: Titles of the same in numbers; empty where there are too many.
        cells: Those numbers, row by row.
        folded: Whether they are shown only on demand.
    """

    title: str
    note: str
    summary: str
    across: str
    up: str
    columns: tuple[Tick, ...]
    rows: tuple[Tick, ...]
    lines: tuple[Line, ...]
    marks: tuple[Point, ...] = ()
    band: str = ""
    radius: float | None = None
    upright: bool = True
    nearest: float | None = None
    head: tuple[str, ...] = ()
    cells: tuple[tuple[str, ...], ...] = ()
    folded: bool = True


def charts(report: EvasionReport) -> list[Chart]:
    """The pictures of a report's curves, in the order of the report; none for what is empty."""
    curves, allowed = report.curves, report.threat.perturbation
    radius = None if allowed is None else allowed.radius
    return [
        *_passes(curves),
        *_eps(curves, radius),
        *(_queries(curves, curves.queries, radius) if curves.queries else []),
        *(_distances(curves.distances, radius) if curves.distances else []),
    ]


def _passes(curves: Curves) -> list[Chart]:
    if not curves.passes:
        return []
    points = [(point.passes, point.robust) for point in curves.passes]
    across = Scale.growing([x for x, _ in points])
    return [
        Chart(
            title="Robust accuracy over effort",
            note=" ".join((_PASSES_NOTE, words.effort(curves))).strip(),
            summary=_told(points, "{} standing after {} passes", words.percent),
            across="passes per example",
            up="robust accuracy",
            columns=across.ticks(),
            rows=SHARES.ticks(_percent),
            lines=(Line(path=_steps(points, across, SHARES)),),
            head=("Passes", "Robust accuracy"),
            cells=tuple((f"{x:,.4g}", words.percent(y)) for x, y in points),
        )
    ]


def _eps(curves: Curves, radius: float | None) -> list[Chart]:
    if not curves.eps:
        return []
    points = [(point.eps, point.robust) for point in curves.eps]
    across = Scale.from_zero([x for x, _ in points])
    places = [(across(x), SHARES(y)) for x, y in points]
    return [
        Chart(
            title="Robust accuracy over the radius",
            note="Examples that stand where changes of so much are allowed.",
            summary=_told(points, "{} standing at radius {}", words.percent),
            across="radius",
            up="robust accuracy",
            columns=across.ticks(),
            rows=SHARES.ticks(_percent),
            lines=(Line(path=_path(places)),),
            marks=tuple(places),
            radius=across.inside(radius),
            head=("Radius", "Robust accuracy"),
            cells=tuple((words.number(x), words.percent(y)) for x, y in points),
        )
    ]


def _queries(curves: Curves, points: Sequence[QueriesPoint], radius: float | None) -> list[Chart]:
    """Median and quartiles of the distance; above the picture where they are infinite."""
    across = Scale.growing([point.queries for point in points])
    finite = [value for point in points for value in (point.q25, point.median, point.q75) if value]
    up = Scale.from_zero([*finite, *([] if radius is None else [radius])], start=BOTTOM, end=TOP)
    median = [
        (across(point.queries), up(point.median)) for point in points if point.median is not None
    ]
    # An upper quartile that was not reached lies above everything that can be drawn.
    spread = [
        (across(point.queries), up(point.q25), TOP if point.q75 is None else up(point.q75))
        for point in points
        if point.q25 is not None
    ]
    if len(spread) == 1:
        # An area needs two ends.
        (x, low, high), half = spread[0], 4
        spread = [(x - half, low, high), (x + half, low, high)]
    outline = [(x, low) for x, low, _ in spread] + [(x, high) for x, _, high in reversed(spread)]
    reached = [(float(point.queries), point.median) for point in points if point.median is not None]
    told = _told(reached, "median distance {} after {} queries", short)
    head, cells = words.over_queries(curves)
    return [
        Chart(
            title="Distance over queries",
            note=" ".join((_QUERIES_NOTE, words.nearest(curves))).strip(),
            summary=f"{told or _NOT_REACHED} {words.nearest(curves)}".strip(),
            across="queries per example",
            up="distance",
            columns=across.ticks_at([point.queries for point in points]),
            rows=up.ticks(),
            lines=(Line(path=_path(median)),) if len(median) > 1 else (),
            marks=tuple(median),
            band=_path(outline) + "Z" if outline else "",
            radius=up.inside(radius),
            upright=False,
            nearest=up.inside(None if curves.nearest is None else curves.nearest.median),
            head=head,
            cells=cells,
            folded=False,
        )
    ]


def _distances(points: Sequence[DistancePoint], radius: float | None) -> list[Chart]:
    """Success over distance, one curve for each number of queries."""
    families = [
        (queries, [(point.distance, point.success) for point in family])
        for queries, family in groupby(points, key=lambda point: point.queries)
    ]
    # What was found with many queries fills the picture; with few it may lie far outside.
    last = families[-1][1][-1][0]
    across = Scale.from_zero([last, *([] if radius is None else [1.25 * radius])])
    lines = [
        Line(
            path=_steps([(0.0, 0.0), *family], across, SHARES),
            strength=0.3 + 0.7 * (place + 1) / len(families),
            name=f"{queries:,}",
        )
        for place, (queries, family) in enumerate(families)
    ]
    told = "; ".join(
        f"after {queries:,} queries {words.percent(family[-1][1])} within {short(family[-1][0])}"
        for queries, family in families
    )
    return [
        Chart(
            title="Success over distance",
            note="Share of the examples that were right at the start for which a change of at most "
            "so much was found, by queries per example.",
            summary=told,
            across="distance",
            up="success",
            columns=across.ticks(),
            rows=SHARES.ticks(_percent),
            lines=tuple(lines),
            radius=across.inside(radius),
        )
    ]


def _path(places: Iterable[Point]) -> str:
    return "".join(
        f"{'L' if number else 'M'}{x:.2f} {y:.2f}" for number, (x, y) in enumerate(places)
    )


def _steps(points: Sequence[Point], across: Scale, up: Scale) -> str:
    """A curve that keeps its value until the next point, the last one to the end of the axis."""
    places = [(across(x), up(y)) for x, y in points if x <= across.high]
    corners = places[:1]
    for (_, before), (x, y) in pairwise(places):
        corners += [(x, before), (x, y)]
    return _path([*corners, (across.end, corners[-1][1])])


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\u202f%"


def _told(points: Sequence[Point], sentence: str, write: Callable[[float], str]) -> str:
    """The first and the last point in words."""
    ends = dict.fromkeys([*points[:1], *points[-1:]])
    return "; ".join(sentence.format(write(y), short(x)) for x, y in ends)

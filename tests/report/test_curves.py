"""The curves of a report: as pictures, as tables, and the points they are made of."""

import io
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from rich.console import Console

from robustkit.errors import BadInput, ShapeMismatch
from robustkit.report import (
    Curves,
    DistancePoint,
    Effort,
    EpsPoint,
    EvasionReport,
    NearestKnown,
    PassesPoint,
    PerturbationFacts,
    QueriesPoint,
    Report,
    render,
    show,
)
from robustkit.report.charts import Chart, charts
from robustkit.report.scales import BOTTOM, HEIGHT, LEFT, RIGHT, SHARES, TOP, WIDTH, Scale
from robustkit.report.words import over_queries
from robustkit.threat_models import distance_curve
from tests.report.examples import evasion, full, hostile

PASSES = tuple(
    PassesPoint(passes=float(x), robust=y) for x, y in [(0, 0.9), (1, 0.5), (99, 0.4), (1000, 0.25)]
)
EPS = tuple(EpsPoint(eps=x, robust=y) for x, y in [(0.0, 0.9), (0.25, 0.5), (1.0, 0.0)])
QUERIES = (
    QueriesPoint(queries=250, median=None, q25=2.5, q75=None, success=0.0),
    QueriesPoint(queries=500, median=2.0, q25=1.0, q75=None, success=0.125),
    QueriesPoint(queries=5000, median=0.75, q25=0.5, q75=1.5, success=0.5),
)
DISTANCES = tuple(
    DistancePoint(queries=queries, distance=distance, success=success)
    for queries, distance, success in [
        (500, 1.0, 0.25),
        (500, 4.0, 0.5),
        (5000, 0.5, 0.25),
        (5000, 0.75, 0.5),
        (5000, 2.0, 0.75),
    ]
)


def report(curves: Curves, *, radius: float | None = 0.5) -> EvasionReport:
    allowed = PerturbationFacts(norm="l2", radius=radius, low=0.0, high=1.0, options={})
    made = evasion()
    return replace(made, curves=curves, threat=replace(made.threat, perturbation=allowed))


def chart(curves: Curves, *, radius: float | None = 0.5) -> Chart:
    (only,) = charts(report(curves, radius=radius))
    return only


def places(path: str) -> list[tuple[float, float]]:
    """The corners of a path, in units of the picture."""
    numbers = [float(text) for text in re.findall(r"-?[\d.]+", path)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def page(made: Report) -> ET.Element:
    """The section of the curves, as a browser would read it."""
    html = render(made)
    (section,) = re.findall(r'<section aria-labelledby="curves">.*?</section>', html, re.DOTALL)
    return ET.fromstring(section)


def told(made: EvasionReport) -> str:
    console = Console(file=io.StringIO(), width=80)
    show(made, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_no_curves_no_section() -> None:
    assert charts(evasion()) == []
    assert 'id="curves"' not in render(evasion())
    assert "Distance over queries" not in told(evasion())
    empty = report(Curves(passes=(), eps=(), queries=(), distances=()))
    assert charts(empty) == []
    assert 'id="curves"' not in render(empty)


def test_queries_are_a_table_in_the_terminal() -> None:
    text = told(report(Curves(queries=QUERIES)))
    rows = [line.split() for line in text.splitlines()]
    assert ["Queries", "q25", "Median", "q75", "Success"] in rows
    assert ["250", "2.5", "not", "reached", "not", "reached", "0.0", "%"] in rows
    assert ["500", "1", "2", "not", "reached", "12.5", "%"] in rows
    assert ["5,000", "0.5", "0.75", "1.5", "50.0", "%"] in rows


def test_a_distance_of_zero_was_reached() -> None:
    point = QueriesPoint(queries=10, median=0.0, q25=0.0, q75=None, success=0.5)
    _, rows = over_queries(Curves(queries=(point,)))
    assert rows == (("10", "0", "0", "not reached", "50.0 %"),)


def test_the_nearest_points_known_are_in_table_picture_and_words() -> None:
    near = replace(QUERIES[2], times_nearest=1.5)
    nearest = NearestKnown(median=0.5, q25=0.25, q75=None)
    known = report(Curves(queries=(*QUERIES[:2], near), nearest=nearest))
    text = told(known)
    rows = [line.split() for line in text.splitlines()]
    assert ["Queries", "q25", "Median", "q75", "Success", "\u00d7", "nearest", "known"] in rows
    assert ["5,000", "0.5", "0.75", "1.5", "50.0", "%", "1.5"] in rows
    assert ["500", "1", "2", "not", "reached", "12.5", "%", "not", "reached"] in rows
    assert "a median distance of 0.5." in " ".join(text.split())
    (drawn,) = charts(known)
    assert drawn.nearest == pytest.approx(BOTTOM - 0.5 / (1.05 * 2.5) * (BOTTOM - TOP))
    assert "a median distance of 0.5." in drawn.note
    assert "a median distance of 0.5." in drawn.summary
    (line,) = page(known).findall(".//line[@class='nearest']")
    assert float(line.get("y1") or "nan") == pytest.approx(drawn.nearest, abs=0.01)
    (table,) = page(known).iter("table")
    assert "".join(list(table.iter("tr"))[-1].itertext()).endswith("1.5")
    far = replace(nearest, median=None, q25=None)
    (nothing,) = charts(report(Curves(queries=QUERIES, nearest=far)))
    assert nothing.nearest is None
    assert "at any distance" in nothing.note
    assert not page(report(Curves(queries=QUERIES))).findall(".//line[@class='nearest']")


def test_queries_are_a_table_on_the_page() -> None:
    section = page(report(Curves(queries=QUERIES)))
    (table,) = section.iter("table")
    rows = [["".join(cell.itertext()) for cell in row] for row in table.iter("tr")]
    assert rows == [
        ["Queries", "q25", "Median", "q75", "Success"],
        ["250", "2.5", "not reached", "not reached", "0.0 %"],
        ["500", "1", "2", "not reached", "12.5 %"],
        ["5,000", "0.5", "0.75", "1.5", "50.0 %"],
    ]
    labels = [cell.get("data-label") for cell in table.iter("td")]
    assert labels == ["q25", "Median", "q75", "Success"] * 3


def test_every_curve_is_a_picture_on_the_page() -> None:
    curves = Curves(passes=PASSES, eps=EPS, queries=QUERIES, distances=DISTANCES)
    section = page(report(curves))
    titles = ["".join(title.itertext()) for title in section.iterfind(".//figure/h3")]
    assert titles == [
        "Robust accuracy over effort",
        "Robust accuracy over the radius",
        "Distance over queries",
        "Success over distance",
    ]
    pictures = section.findall(".//svg[@role='img']")
    assert len(pictures) == 4
    for title, picture in zip(titles, pictures, strict=True):
        assert picture.get("viewBox") == f"0 0 {WIDTH} {HEIGHT}"
        assert str(picture.get("aria-label")).startswith(f"{title}: ")
        assert picture.findall("path[@class='line']")
    folded = [
        [["".join(cell.itertext()) for cell in row] for row in table.iter("tr")]
        for table in section.iterfind(".//details/table")
    ]
    assert folded[0][-1] == ["1,000", "25.0 %"]
    assert folded[1][1:] == [["0", "90.0 %"], ["0.25", "50.0 %"], ["1", "0.0 %"]]


def test_effort_is_drawn_as_steps_over_factors() -> None:
    drawn = chart(Curves(passes=PASSES))
    corners = places(drawn.lines[0].path)
    assert corners[0] == pytest.approx((LEFT, SHARES(0.9)), abs=0.01)
    assert corners[-1] == pytest.approx((RIGHT, SHARES(0.25)), abs=0.01)
    # Level, then down: never a slope.
    for (x, y), (u, v) in pairwise(corners):
        assert (x == u) or (y == v)
        assert u >= x
        assert v >= y
    turn = LEFT + math.log(2) / math.log(1001) * (RIGHT - LEFT)
    assert corners[1] == pytest.approx((turn, corners[0][1]), abs=0.01)
    assert [tick.label for tick in drawn.columns] == ["0", "2", "10", "100", "1,000"]
    assert [tick.label for tick in drawn.rows][::5] == ["100\u202f%", "0\u202f%"]


def test_the_radius_is_marked_where_it_lies() -> None:
    over = chart(Curves(eps=EPS), radius=0.5)
    assert over.upright
    assert over.radius == pytest.approx(LEFT + 0.5 / 1.05 * (RIGHT - LEFT))
    assert over.marks[-1] == pytest.approx((LEFT + 1 / 1.05 * (RIGHT - LEFT), BOTTOM))
    assert chart(Curves(eps=EPS), radius=3.0).radius is None
    assert chart(Curves(eps=EPS), radius=None).radius is None
    queries = chart(Curves(queries=QUERIES), radius=0.5)
    assert not queries.upright
    assert queries.radius == pytest.approx(BOTTOM - 0.5 / (1.05 * 2.5) * (BOTTOM - TOP))
    lines = page(report(Curves(queries=QUERIES))).findall(".//line[@class='radius']")
    assert [float(str(lines[0].get(key))) for key in ("y1", "y2")] == [
        pytest.approx(queries.radius, abs=0.01)
    ] * 2


def test_what_was_not_reached_is_not_drawn_as_if_it_were() -> None:
    drawn = chart(Curves(queries=QUERIES))
    start, second, end = (LEFT, Scale.growing([250, 5000])(500), RIGHT)
    up = Scale.from_zero([2.5], start=BOTTOM, end=TOP)
    assert [x for x, _ in drawn.marks] == pytest.approx([second, end])
    assert [y for _, y in drawn.marks] == pytest.approx([up(2), up(0.75)])
    assert [point[0] for point in places(drawn.lines[0].path)] == pytest.approx(
        [second, end], abs=0.01
    )
    lower = [(start, up(2.5)), (second, up(1.0)), (end, up(0.5))]
    upper = [(end, up(1.5)), (second, TOP), (start, TOP)]
    for found, wanted in zip(places(drawn.band), lower + upper, strict=True):
        assert found == pytest.approx(wanted, abs=0.01)
    nothing = QueriesPoint(queries=250, median=None, q25=None, q75=None, success=0.0)
    blank = chart(Curves(queries=(nothing,)))
    assert (blank.lines, blank.marks, blank.band) == ((), (), "")
    assert blank.summary == "The median distance was not reached."
    assert page(report(Curves(queries=(nothing,)))).findall(".//path") == []


def test_one_number_of_queries_is_a_mark_with_its_quartiles() -> None:
    drawn = chart(Curves(queries=QUERIES[2:]))
    assert len(drawn.marks) == 1
    corners = places(drawn.band)
    assert len(corners) == 4
    assert corners[0][0] < drawn.marks[0][0] < corners[1][0]


def test_success_over_distance_is_a_curve_for_each_number_of_queries() -> None:
    drawn = chart(Curves(distances=DISTANCES))
    assert [line.name for line in drawn.lines] == ["500", "5,000"]
    assert drawn.lines[0].strength < drawn.lines[1].strength == 1
    across = Scale.from_zero([2.0])
    few, many = (places(line.path) for line in drawn.lines)
    # The point at 4.0 lies outside: the curve keeps its value up to the edge.
    expected = [(0, 0), (1, 0), (1, 0.25), (2.1, 0.25)]
    for found, (x, y) in zip(few, expected, strict=True):
        assert found == pytest.approx((across(x), SHARES(y)), abs=0.01)
    assert many[-1] == pytest.approx((RIGHT, SHARES(0.75)), abs=0.01)
    assert drawn.radius == pytest.approx(across(0.5))
    # A radius that lies further out than anything found is still in the picture.
    assert chart(Curves(distances=DISTANCES), radius=3.0).radius is not None
    names = [
        "".join(key.itertext()).strip()
        for key in page(report(Curves(distances=DISTANCES))).iter("li")
    ]
    assert names == ["Queries:", "500", "5,000"]


@pytest.mark.parametrize(
    "curves",
    [
        Curves(passes=(PassesPoint(passes=0.0, robust=1.0),)),
        Curves(eps=(EpsPoint(eps=0.0, robust=1.0),)),
        Curves(eps=(EpsPoint(eps=1e-9, robust=0.5), EpsPoint(eps=1e9, robust=0.5))),
        Curves(queries=(QueriesPoint(queries=0, median=0.0, q25=0.0, q75=0.0, success=1.0),)),
        Curves(distances=(DistancePoint(queries=1, distance=0.0, success=1.0),)),
        Curves(distances=(DistancePoint(queries=10**9, distance=1e300, success=0.001),)),
    ],
)
@pytest.mark.parametrize("radius", [None, 0.0, math.inf, 1e12])
def test_extreme_numbers_stay_inside_the_picture(curves: Curves, radius: float | None) -> None:
    section = page(report(curves, radius=radius))
    for path in section.iter("path"):
        for x, y in places(str(path.get("d"))):
            assert LEFT - 5 <= x <= RIGHT + 5 or path.get("d") == "M1 5L17 5"
            assert TOP - 0.01 <= y <= BOTTOM + 0.01 or path.get("d") == "M1 5L17 5"
    for text in section.iter("text"):
        assert "nan" not in str(text.text)
        assert len(str(text.text)) < 20


def test_labels_of_an_axis_do_not_overlap() -> None:
    scale = Scale.growing([250, 1e6])
    marks = [250, 260, 500, 1000, 2000, 5000, 10_000, 20_000, 999_000, 1_000_000]
    ticks = scale.ticks_at(marks)
    assert ticks[-1].label == "1M"
    assert all(b.at - a.at >= 38 for a, b in pairwise(ticks))
    assert 4 <= len(Scale.from_zero([0.0314]).ticks()) <= 8
    assert [tick.label for tick in Scale.from_zero([0.5]).ticks()] == [
        *("0", "0.1", "0.2", "0.3", "0.4", "0.5")
    ]


@pytest.mark.parametrize("make", [full, hostile])
def test_a_page_with_curves_holds_no_code_and_no_style_of_its_own(
    make: Callable[[], EvasionReport],
) -> None:
    html = render(make())
    assert "<script" not in html
    assert " style=" not in html
    assert html.count("<style>") == 1
    assert "{{" not in html.replace("{{ 7*7 }}", "")


def test_old_reports_without_distances_are_read() -> None:
    made = report(Curves(queries=QUERIES))
    assert "distances" not in made.to_json()
    assert EvasionReport.from_json(made.to_json()).curves.distances is None
    with_all = report(Curves(queries=QUERIES, distances=DISTANCES))
    assert EvasionReport.from_json(with_all.to_json()) == with_all


def test_points_over_distance_are_exact() -> None:
    nearest = torch.tensor([[math.inf, 0.5], [2.0, 0.25], [math.inf, 0.5], [4.0, 4.0]]).double()
    points = [(p.queries, p.distance, p.success) for p in distance_curve(nearest, [10, 20])]
    assert points == [
        (10, 2.0, 0.25),
        (10, 4.0, 0.5),
        (20, 0.25, 0.25),
        (20, 0.5, 0.75),
        (20, 4.0, 1.0),
    ]
    assert distance_curve(torch.full((3, 1), torch.inf).double(), [10]) == ()


def test_many_examples_give_few_points_and_keep_both_ends() -> None:
    generator = torch.Generator().manual_seed(0)
    nearest = torch.rand(1000, 1, generator=generator).double()
    points = distance_curve(nearest, [10], most=20)
    assert len(points) == 20
    assert points[0].distance == nearest.min()
    assert (points[-1].distance, points[-1].success) == (float(nearest.max()), 1.0)
    for point in points:
        assert point.success == float((nearest <= point.distance).double().mean())


def test_a_curve_over_distance_needs_examples_and_its_own_budgets() -> None:
    with pytest.raises(BadInput, match="at least one"):
        distance_curve(torch.zeros(0, 1), [1])
    with pytest.raises(ShapeMismatch, match="2 budgets"):
        distance_curve(torch.zeros(3, 1), [1, 2])


def test_what_more_effort_might_find_is_told_under_the_curve_and_in_the_terminal() -> None:
    words = "200 passes, broke 1 example: as many again would break 4.7 more on average at most"
    effort = Effort(passes=200, broken=1, more_at_most=4.744)
    known = report(Curves(passes=PASSES, effort=effort))
    (drawn,) = charts(known)
    assert words in drawn.note
    assert words in " ".join(told(known).split())
    assert "as many again" not in told(report(Curves(passes=PASSES)))

"""Sanity flags that are read from the rows of a finished run, without a model."""

import math

import pytest

from robustkit.attacks import FMN, PGD, Square
from robustkit.evaluation import flags, flags_surface
from robustkit.evaluation.flags_verdict import sanity_flags
from robustkit.evaluation.plans import Line
from robustkit.report import AttackRow, Draws
from robustkit.statistics import wilson


def row(through: str, broken: int, *, backward: int = 9, violations: int = 0) -> AttackRow:
    return AttackRow(
        name="apgd",
        options={},
        through=through,
        examples_in=100,
        broken=broken,
        violations=violations,
        forward=9,
        backward=backward,
        queries=9,
        seconds=0.0,
    )


@pytest.mark.parametrize(
    ("ways", "raised"),
    [
        ([("direct", 10), ("surrogate:mean", 3)], True),
        ([("direct", 10), ("bpda", 2), ("surrogate:mean", 1)], True),
        ([("direct", 10), ("surrogate:mean", 2)], False),
        ([("direct", 10), ("eot", 9), ("warm", 9)], False),
        # Whether the direct attack that follows would have broken them too, nobody knows.
        ([("surrogate:mean", 30), ("direct", 0)], False),
        ([("surrogate:mean", 30)], False),
    ],
)
def test_transfer_that_beats_direct_attacks_raises_f2(
    ways: list[tuple[str, int]], raised: bool
) -> None:
    found = flags.transfer_wins([row(*way) for way in ways], 100)
    assert (found is not None) == raised
    if found is not None:
        assert (found.id, found.severity) == ("F2", "void")


def test_a_sweep_of_radii_hides_no_f2() -> None:
    plan = [
        Line(name="pgd", attack=PGD()),
        Line(name="pgd", attack=PGD(), through="surrogate:mean"),
        Line(name="fmn", attack=FMN(), role="distances"),
    ]
    rows = [row("direct", 0), row("surrogate:mean", 60), row("direct", 0)]
    found = sanity_flags(plan=plan, rows=rows, robust=wilson(900, 2000), total=2000, measured=())
    assert [flag.id for flag in found] == ["F2"]


def test_one_example_never_raises_f2() -> None:
    assert flags.transfer_wins([row("direct", 0), row("bpda", 1)], 10) is None


def draws(value: float) -> Draws:
    share = wilson(round(100 * value), 100)
    return Draws(count=20, mean=share, majority=share, all=share)


def test_a_gap_between_tally_and_fresh_draws_raises_f10() -> None:
    found = flags.redraw_gap(0.26, draws(0.48), 100)
    assert found is not None
    assert (found.id, found.severity) == ("F10", "warn")
    assert flags.redraw_gap(0.46, draws(0.48), 1000) is None
    assert flags.redraw_gap(0.26, None, 100) is None
    assert flags.redraw_gap(0.26, draws(0.48), 8) is None


def test_few_examples_raise_f11() -> None:
    found = flags.few_examples(wilson(10, 20), 20)
    assert found is not None
    assert found.severity == "info"
    assert flags.few_examples(wilson(500, 1000), 1000) is not None  # +-3.1 points
    assert flags.few_examples(wilson(600, 1100), 1100) is None
    assert flags.few_examples(wilson(1, 999), 999) is not None


def test_square_in_the_plan_is_read_from_its_row() -> None:

    plan = [Line(name="pgd", attack=PGD()), Line(name="square", attack=Square(queries=77))]
    for broken, raised in ((3, True), (2, False)):
        rows = [row("direct", 5), row("direct", broken, backward=0)]
        found = sanity_flags(
            plan=plan, rows=rows, robust=wilson(900, 2000), total=2000, measured=()
        )
        assert [flag.id for flag in found] == (["F5"] if raised else [])
    alone = sanity_flags(
        plan=plan[1:], rows=rows[1:], robust=wilson(900, 2000), total=2000, measured=()
    )
    assert alone == []


def test_thresholds_are_exact() -> None:
    assert flags.dead_gradients(0, 1, 20, "images") is None
    assert flags.dead_gradients(0, 2, 20, "images") is not None
    assert flags.dead_gradients(1, 0, 2000, "images") is not None
    assert flags.top_ties(1, 200) is None
    assert flags.top_ties(2, 200) is not None
    assert flags.not_converged(2, 9, 200, "") is None
    assert flags.not_converged(3, 9, 200, "") is not None
    assert flags.survives_everything(5, 10, 0.2, 10, 0.5) is None
    assert flags.survives_everything(6, 10, 0.2, 10, 0.5) is not None
    assert flags.one_step_wins(2, 6, reverse=False) is None
    assert flags.one_step_wins(3, 6, reverse=False) is not None
    assert flags.one_step_wins(2, 20, reverse=True) is None
    assert flags.one_step_wins(3, 20, reverse=True) is not None
    assert flags_surface.flat_loss(2, 10, 10) is None
    assert flags_surface.flat_loss(3, 10, 10) is not None
    assert flags_surface.step_sensitive([1.0, 1.2, 1.5], 4) is None
    assert flags_surface.step_sensitive([1.0, 1.2, 1.6], 4) is not None
    assert flags_surface.step_sensitive([-1.0, -1.2, 0.0], 4) is None
    assert flags_surface.step_sensitive([1.0, math.nan, 3.0], 4) is None
    assert flags_surface.saturated([16.6, 16.6, 20.0], 2) is None
    assert flags_surface.saturated([16.6, 16.7, 20.0], 2) is not None


def test_flags_come_in_order_and_once() -> None:
    first = flags.random_answers(1, 2, 5)
    later = flags_surface.saturated([99.0], 2)
    again = flags.random_answers(2, 2, 5)
    assert first is not None
    assert later is not None
    assert again is not None
    rows = [row("direct", 0, violations=1)]
    found = sanity_flags(
        plan=[Line(name="pgd", attack=PGD())],
        rows=rows,
        robust=wilson(1, 2),
        total=2,
        measured=[later, first, again],
        violations=1,
        violators=["pgd"],
    )
    assert [flag.id for flag in found] == ["F1", "F6", "F11", "saturated-logits"]
    assert found[0] == first

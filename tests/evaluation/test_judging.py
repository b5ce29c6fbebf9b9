"""The judge: cheats score nothing, each example is judged afresh, and the bill is exact."""

import dataclasses
import itertools
from typing import Any

import pytest
import torch

from robustkit import evaluate
from robustkit.attacks import FGSM, PGD, EvasionAttack, Square
from robustkit.data import LabelledImages
from robustkit.models.cnn import CNN
from robustkit.report import EvasionReport
from robustkit.threat_models import Access, Budget, ThreatModel
from tests.evaluation.cheats import FORBIDDEN, Cheat, Minimiser, Tampering, Walker
from tests.evaluation.victims import Counting, digits, threat


def judged(model: CNN, *attacks: EvasionAttack[Any], n: int = 12) -> EvasionReport:
    return evaluate(model, digits(n), threat(), attacks=attacks, batch_size=8)


def statuses(report: EvasionReport) -> set[str]:
    return {example.status for example in report.examples}


@pytest.mark.parametrize("way", FORBIDDEN)
def test_a_cheat_scores_nothing_and_is_exposed(way: str, model: CNN) -> None:
    report = judged(model, Cheat(way=way))
    assert report.robust_accuracy == report.clean_accuracy
    assert report.clean_accuracy.value > 0
    assert statuses(report) <= {"violation", "misclassified"}
    (row,) = report.attacks
    assert (row.broken, row.violations) == (0, row.examples_in)
    assert report.violations == row.examples_in > 0
    (flag,) = (flag for flag in report.flags if flag.severity == "unlisted")
    assert flag.id == "F6"
    assert all(e.distance is None and e.attack is None for e in report.examples)


def test_doing_nothing_scores_nothing_and_is_no_violation(model: CNN) -> None:
    report = judged(model, Cheat(way="nothing"))
    assert report.robust_accuracy == report.clean_accuracy
    assert statuses(report) <= {"robust", "misclassified"}
    assert report.violations == 0


def test_the_judge_cannot_be_tampered_with(model: CNN) -> None:
    images = digits(12)
    before = images.inputs(slice(None)), images.labels.clone()
    report = evaluate(model, images, threat(), attacks=[Tampering()], batch_size=8)
    assert report.robust_accuracy == report.clean_accuracy
    assert report.violations == report.attacks[0].examples_in
    assert torch.equal(images.inputs(slice(None)), before[0])
    assert torch.equal(images.labels, before[1])


@pytest.mark.parametrize("way", ["out-of-range", "nan", "infinite", "shape", "rows", "dtype"])
def test_a_minimising_cheat_is_exposed_as_well(way: str, model: CNN) -> None:
    report = judged(model, Minimiser(way=way))
    assert report.robust_accuracy == report.clean_accuracy
    assert report.violations == report.attacks[0].examples_in
    assert statuses(report) <= {"violation", "misclassified"}


def test_a_minimiser_outside_the_radius_measures_and_is_no_violation(model: CNN) -> None:
    report = judged(model, Walker(), n=40)
    assert report.violations == 0
    assert statuses(report) >= {"robust", "broken"}
    for example in report.examples:
        if example.status in ("broken", "robust"):
            assert example.distance is not None
            inside = example.distance <= 0.2 * (1 + 1e-5)
            assert inside == (example.status == "broken")


def test_a_minimiser_that_finds_nothing_has_not_started(model: CNN) -> None:
    report = judged(model, Minimiser(way="nothing"))
    assert statuses(report) <= {"not_started", "misclassified"}
    assert all(example.distance is None for example in report.examples)
    assert report.robust_accuracy == report.clean_accuracy


def test_over_the_budget_is_refused_before_the_model_is_asked(model: CNN) -> None:
    adversary = ThreatModel(
        name="poor",
        access=Access.GRADIENT,
        perturbation=threat().perturbation,
        budget=Budget(queries=3),
    )
    counting = Counting(model)
    report = evaluate(counting, digits(12), adversary, attacks=[PGD(steps=50)], batch_size=1)
    assert max(example.queries or 0 for example in report.examples) == 3
    rich = evaluate(model, digits(12), threat(), attacks=[PGD(steps=50)], batch_size=1)
    assert rich.robust_accuracy.value < report.robust_accuracy.value


def test_broken_goes_before_violation_before_not_started_before_robust(model: CNN) -> None:
    outside, idle, lost = Cheat(way="outside"), Cheat(way="nothing"), Minimiser(way="nothing")
    assert "violation" not in statuses(judged(model, idle, lost))
    assert statuses(judged(model, idle, lost)) <= {"robust", "misclassified"}
    assert statuses(judged(model, lost, lost)) <= {"not_started", "misclassified"}
    assert statuses(judged(model, outside, idle)) <= {"violation", "misclassified"}
    assert statuses(judged(model, lost, outside)) <= {"violation", "misclassified"}
    mixed = judged(model, outside, FGSM(), n=40)
    plain = judged(model, FGSM(), n=40)
    broken = [e.id for e in mixed.examples if e.status == "broken"]
    assert broken == [e.id for e in plain.examples if e.status == "broken"]
    assert statuses(mixed) == statuses(plain) - {"robust"} | {"violation"}
    assert mixed.violations == mixed.attacks[0].examples_in
    assert {e.attack for e in mixed.examples if e.status == "broken"} == {"fgsm"}


def test_an_attack_gets_only_what_still_stands(model: CNN, images: LabelledImages) -> None:
    report = evaluate(model, images, threat(), attacks=PLANS["all"], batch_size=7)
    standing = sum(example.status != "misclassified" for example in report.examples)
    assert standing < len(images)
    for row in report.attacks:
        assert row.examples_in == standing
        standing -= row.broken
    assert sum(row.broken > 0 for row in report.attacks) >= 2
    assert standing == round(report.robust_accuracy.value * len(images))


def test_nothing_is_run_when_nothing_stands(model: CNN, images: LabelledImages) -> None:
    adversary = threat().with_radius(1.0)
    report = evaluate(model, images, adversary, attacks=[PGD(steps=40, restarts=3), FGSM()])
    assert report.robust_accuracy.value == 0
    last = report.attacks[1]
    assert (last.name, last.examples_in, last.forward, last.backward) == ("fgsm", 0, 0, 0)


PLANS: dict[str, list[EvasionAttack[Any]]] = {
    "steps": [FGSM(), PGD(steps=7, restarts=2)],
    "all": [FGSM(), Walker(), PGD(), FGSM()],
    "blocks": [Cheat(way="nothing"), Walker()],
    "mixed": [Cheat(way="outside"), PGD(steps=5), Walker(), FGSM()],
}


@pytest.mark.parametrize("name", PLANS)
def test_the_bill_is_what_the_model_was_asked(name: str, model: CNN) -> None:
    counting = Counting(model)
    # One row per batch: no padding, so that the model sees what is paid for and nothing else.
    report = evaluate(counting, digits(15), threat(), attacks=PLANS[name], batch_size=1)
    guards = report.diagnostics["guards"]
    assert isinstance(guards, dict)
    flags = report.diagnostics["flags"]
    assert isinstance(flags, dict)
    assert report.cost.forward + guards["forward"] + flags["forward"] == counting.count.rows
    assert report.cost.rows_run == report.cost.forward
    search = sum(row.forward for row in report.attacks)
    judging = sum(row.examples_in for row in report.attacks)
    assert report.cost.forward == 15 + search + judging
    # FGSM as the first attack takes its gradient on the clean pass.
    shares = isinstance(PLANS[name][0], FGSM)
    right = report.attacks[0].examples_in
    taken = sum(row.backward for row in report.attacks)
    assert report.cost.backward == taken + shares * (15 - right)
    assert search + shares * right == sum(example.queries or 0 for example in report.examples)
    assert [row.queries for row in report.attacks] == [
        row.forward + (shares and number == 0) * right for number, row in enumerate(report.attacks)
    ]


def test_padding_is_run_but_not_charged(model: CNN) -> None:
    counting = Counting(model)
    wide = evaluate(counting, digits(15), threat(), attacks=PLANS["steps"], batch_size=32)
    narrow = evaluate(model, digits(15), threat(), attacks=PLANS["steps"], batch_size=1)
    assert wide.cost.forward == narrow.cost.forward
    assert wide.cost.backward == narrow.cost.backward
    # Asked twice with one row, five times at the full width, then for the flags.
    flags = wide.diagnostics["flags"]
    assert isinstance(flags, dict)
    guards_rows = 2 + 5 * 32
    assert wide.cost.rows_run == counting.count.rows - guards_rows - flags["rows_run"]
    assert wide.cost.rows_run % 32 == 0


def test_the_next_example_enters_where_one_leaves_without_gradients_too(model: CNN) -> None:
    scores = dataclasses.replace(threat(), access=Access.SCORE)
    report = evaluate(model, digits(40), scores, attacks=[Square(queries=200)], batch_size=8)
    asked = [e.queries or 0 for e in report.examples if e.status != "misclassified"]
    # Attacked eight at a time, all would wait for the slowest.
    blocks = 8 * sum(max(asked[start : start + 8]) for start in range(0, len(asked), 8))
    judged = len(asked) + -len(asked) % 8
    assert sum(asked) <= report.cost.rows_run - 40 - judged < 0.8 * blocks


@pytest.mark.parametrize("name", PLANS)
def test_the_model_is_run_at_one_width(name: str, model: CNN) -> None:
    # What makes results independent of order and neighbours, to the last bit.
    seen = []
    counting = Counting(model, lambda count: seen.append(count.rows))
    evaluate(counting, digits(15), threat(), attacks=PLANS[name], batch_size=4)
    sizes = {after - before for before, after in itertools.pairwise([0, *seen])}
    assert sizes == {1, 4}  # one row alone is tried first, in the guards
    assert seen[:2] == [1, 2]
    assert all((rows - 2) % 4 == 0 for rows in seen[1:])

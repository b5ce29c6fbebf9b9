"""What a report sums up: each number about the examples and attacks that it names."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from robustkit import evaluate
from robustkit.attacks import APGD, FGSM, FMN, PGD, EvasionAttack, Stepwise
from robustkit.attacks._eot import EOT
from robustkit.errors import BadInput
from robustkit.evaluation.flags_attacks import attack_flags
from robustkit.evaluation.plans import Line
from robustkit.evaluation.records import Group, Records
from robustkit.evaluation.summary import Standing, tally
from robustkit.models.cnn import CNN
from robustkit.report import EvasionReport
from robustkit.threat_models import Budget, load, parse_goal
from tests.evaluation.cheats import Cheat
from tests.evaluation.victims import digits, threat
from tests.oracles import LabelSets


def test_a_broken_example_tells_of_the_attack_that_broke_it(model: CNN, tmp_path: Path) -> None:
    images, attacks = digits(12), [PGD(steps=5)]
    alone = evaluate(model, images, threat(), attacks=attacks)
    swept = evaluate(model, images, threat(), attacks=attacks, eps_sweep=[0.05], out=tmp_path)
    fell = [example for example in alone.examples if example.status == "broken"]
    assert fell
    # FMN has measured them all once more, and found nearer points.
    assert set(fell) <= set(swept.examples)
    kept = load_file(tmp_path / "examples.safetensors")
    for row, point in zip(kept["ids"].tolist(), kept["inputs"], strict=True):
        change = (point - images.inputs([row])[0]).abs().max()
        assert swept.examples[row].distance == pytest.approx(float(change))


def test_what_a_sweep_breaks_is_said(model: CNN) -> None:
    def run(eps_sweep: list[float]) -> EvasionReport:
        return evaluate(model, digits(20), threat(), attacks=[FGSM()], eps_sweep=eps_sweep)

    alone, swept = run([]), run([0.05])
    more = round(20 * (alone.robust_accuracy.value - swept.robust_accuracy.value))
    assert more > 0
    told = {flag.id: flag.message for flag in swept.flags}
    assert f"for {more} examples" in told["sweep-broke-more"]
    assert "sweep-broke-more" not in {flag.id for flag in alone.flags}


def test_leads_outside_the_set_are_not_recorded(model: CNN, tmp_path: Path) -> None:
    evaluate(model, digits(4), threat(), attacks=[PGD(steps=1)], eps_sweep=[0.05], out=tmp_path)
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    known = {group["stage"]: group["lead"] is not None for group in map(json.loads, lines)}
    assert known == {-1: True, 0: True, 1: False}


@pytest.mark.parametrize("reference", ["pgd", "foolbox:LinfFastGradientAttack"])
def test_a_reference_is_apart_from_the_curve_over_passes(reference: str, model: CNN) -> None:
    weak = PGD(steps=1, step_size=1e-9, random_start=False)
    alone = evaluate(model, digits(8), threat(), attacks=[weak])
    report = evaluate(model, digits(8), threat(), attacks=[weak], reference=reference)
    assert report.robust_accuracy.value < alone.robust_accuracy.value
    assert report.curves.passes == alone.curves.passes is not None


def test_violations_are_examples_and_not_events(model: CNN) -> None:
    cheats = [Cheat(way="outside"), Cheat(way="nan")]
    report = evaluate(model, digits(6), threat(), attacks=cheats)
    tried = report.attacks[0].examples_in
    assert [row.violations for row in report.attacks] == [tried, tried]
    assert report.violations == tried
    (told,) = (flag.message for flag in report.flags if flag.id == "F6")
    assert f"{tried} examples came back" in told
    assert "(Cheat)" in told


@pytest.mark.parametrize(
    ("attack", "goal", "needed"),
    [
        (PGD(loss="dlr"), "untargeted", 3),
        (EOT(attack=PGD(loss="dlr")), "untargeted", 3),
        (APGD(loss="dlr", targets=2), "untargeted", 4),
        (PGD(loss="dlr"), "targeted", 4),
        (PGD(loss="margin"), "targeted", 0),
    ],
)
def test_the_ratio_of_logits_is_said_to_be_replaced_where_it_is(
    attack: Stepwise[Any], goal: str, needed: int
) -> None:
    adversary = replace(threat(), goal=parse_goal(goal))
    plan = [Line(name="pgd", attack=attack)]
    result = tally(digits(1), asked(), plan, Standing(digits(1), asked(), plan))
    for classes in (2, 3, 4):
        found = attack_flags(plan, adversary, classes, result)
        assert [flag.id for flag in found] == ["dlr-fallback"] * (classes < needed)


def asked() -> Records:
    """One digit that the model is right about."""
    records = Records(None, {})
    label = digits(1).labels.tolist()
    records.add(Group(stage=-1, rows=[0], labels=label, forward=1, rows_run=1, seconds=0.0))
    return records


def test_a_budget_that_several_attacks_have_is_said(model: CNN) -> None:
    adversary = replace(load("linf-decision"), budget=Budget(queries=20))

    def run(attacks: list[str | EvasionAttack[Any]]) -> dict[str, str]:
        report = evaluate(model, digits(2), adversary, attacks=attacks)
        assert report.curves.queries is not None
        return {flag.id: flag.message for flag in report.flags}

    assert "budget-per-attack" not in run(["rays"])
    told = run(["rays", "hop-skip-jump"])["budget-per-attack"]
    assert "Each of 2 attacks may ask 20 times" in told
    assert "show rays alone" in told


@pytest.mark.parametrize("radius", [-0.1, float("nan"), float("inf")])
def test_a_radius_that_no_curve_can_have_is_refused_before_the_run(radius: float) -> None:
    with pytest.raises(BadInput, match="finite number"):
        evaluate("nowhere.py:make", "nowhere.npz", "linf", eps_sweep=[0.1, radius])


def test_an_endless_radius_is_no_point_of_a_sweep(model: CNN) -> None:
    endless = threat().with_radius(float("inf"))
    report = evaluate(model, digits(2), endless, attacks=[FMN(steps=5)], eps_sweep=[0.1])
    assert [point.eps for point in report.curves.eps or ()] == [0.1]
    assert json.loads(report.to_json())["curves"]["eps"]


@pytest.mark.parametrize("attack", [FGSM(), PGD(steps=1)])
def test_a_set_with_the_right_label_is_right_from_the_start(
    attack: EvasionAttack[Any], model: CNN, tmp_path: Path
) -> None:
    def run(width: float, *, resume: bool = False) -> list[str]:
        sets = LabelSets(model, width)
        out = tmp_path / f"{width}"
        report = evaluate(sets, wrong, threat(), attacks=[attack], out=out, resume=resume)
        assert report.clean_accuracy.value == report.attacks[0].examples_in / len(wrong)
        return [example.status for example in report.examples]

    images = digits(6)
    wrong = images.relabelled((images.labels + 1) % 10)
    assert run(1e9) == run(1e9, resume=True) == ["robust"] * 6
    assert set(run(0.0)) == {"misclassified"}


def test_one_name_and_a_folder_in_words_are_taken(model: CNN, tmp_path: Path) -> None:
    report = evaluate(model, digits(2), threat(), attacks="fgsm", out=str(tmp_path / "run"))
    assert [row.name for row in report.attacks] == ["fgsm"]
    assert (tmp_path / "run" / "report.json").exists()

"""What a report sums up: each number about the examples and attacks that it names."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from robustkit import evaluate
from robustkit.attacks import FGSM, PGD
from robustkit.models.cnn import CNN
from robustkit.report import EvasionReport
from tests.evaluation.cheats import Cheat
from tests.evaluation.victims import digits, threat


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

"""Plans, the lead that is left, curves over passes and radius, references."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

from robustkit import evaluate, registry
from robustkit.attacks import FGSM, FMN, PGD
from robustkit.errors import BadInput, DoesNotFit, UnknownName
from robustkit.evaluation import plans
from robustkit.evaluation.plans import Line
from robustkit.models.cnn import CNN
from robustkit.report import EvasionReport
from robustkit.threat_models import Access, LpBall, ThreatModel, load
from tests.evaluation.victims import RADII, digits, threat, victim
from tests.oracles import Counting


def statuses(report: EvasionReport) -> list[str]:
    return [example.status for example in report.examples]


@pytest.mark.parametrize("name", plans.PLANS)
def test_every_plan_is_registered_and_shown(name: str) -> None:
    assert registry.find("plans", name).load()() == plans.PLANS[name]
    lines = plans.words(name)
    assert len(lines) == len(plans.PLANS[name])
    assert lines[0] == "fgsm"
    assert any("of the lead is left" in line for line in lines)


@pytest.mark.parametrize("name", plans.PLANS)
def test_in_l1_plans_begin_in_wide_balls(name: str) -> None:
    def wide(norm: str) -> int:
        return sum(
            getattr(line.attack, "wide_start", False) for line in plans.plan(name, load(norm))
        )

    assert wide("l1") >= 3
    assert wide("linf") == wide("l2") == 0
    assert sum("wide_start=true" in line for line in plans.words(name, "l1")) == wide("l1")
    lines = plans.plan(name, load("l1"))
    assert plans.split(lines, load("l1"))[0] == lines


@pytest.fixture(scope="module")
def long() -> EvasionReport:
    """What the default plan finds."""
    return evaluate(victim(), digits(60), threat())


def test_a_longer_plan_breaks_what_a_shorter_one_breaks(long: EvasionReport, model: CNN) -> None:
    images = digits(60)
    short = evaluate(model, images, threat(), plan="fast")
    assert 0.2 < short.robust_accuracy.value < 0.8
    assert long.robust_accuracy.value <= short.robust_accuracy.value
    assert long.cost.forward > short.cost.forward
    with pytest.raises(UnknownName, match="fast"):
        evaluate(model, images, threat(), plan="fats")


def test_the_standard_plan_stays_within_its_passes(long: EvasionReport) -> None:
    """On digits, of which many fall late: some 460 passes for each that stands."""
    standing = statuses(long).count("robust")
    assert long.cost.forward + long.cost.backward < 500 * standing + 20 * len(long.examples)


@pytest.mark.slow
def test_the_standard_plan_breaks_what_autoattack_breaks_for_a_twentieth_of_its_passes(
    long: EvasionReport, model: CNN
) -> None:
    images = digits(60)
    counting = Counting(model)
    attack = AutoAttack(
        counting, norm="Linf", eps=RADII["linf"], version="standard", seed=0, device="cpu"
    )
    inputs, labels = images.inputs(slice(None)), images.labels
    with torch.random.fork_rng(devices=[]):
        returned = attack.run_standard_evaluation(inputs, labels, batch_size=60)
    changed = returned[0] if isinstance(returned, tuple) else returned
    with torch.no_grad():
        standing = (model(changed).argmax(1) == labels).tolist()
    ours = [status == "robust" for status in statuses(long)]
    assert not any(mine and not theirs for mine, theirs in zip(ours, standing, strict=True))
    passes = long.cost.forward + long.cost.backward
    assert counting.forward_rows + counting.backward_rows > 20 * passes


def test_effort_goes_where_little_of_the_lead_is_left(long: EvasionReport) -> None:
    rows = [row for row in long.attacks if row.lead_left is not None]
    standing = sum(status == "robust" for status in statuses(long))
    tried = [row.examples_in - row.broken for row in rows]
    assert tried == sorted(tried, reverse=True)
    assert tried[0] > tried[-1]
    assert tried[-1] < standing
    assert all(row.lead_left is None for row in long.attacks[:3])


def test_lines_for_few_examples_run_in_narrow_batches(model: CNN) -> None:
    widths: set[int] = set()

    class Watching(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            widths.add(len(inputs))
            logits: Tensor = model(inputs)
            return logits

    report = evaluate(Watching(), digits(40), threat(), plan="fast", batch_size=32)
    assert report.attacks[-1].lead_left == 0.05
    assert {8, 32} <= widths
    for lead_left, widths_of_lines in (
        (0.05, [1, 8, 8, 8, 64]),
        (0.5, [1, 8, 8, 16, 128]),
        (None, [1, 8, 20, 64, 512]),
    ):
        line = Line(name="pgd", attack=PGD(), lead_left=lead_left)
        assert [line.width(whole) for whole in (1, 8, 20, 64, 512)] == widths_of_lines


def test_a_lead_of_one_is_everybody_and_of_nought_nobody(
    model: CNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    pgd = {"steps": "3", "random_start": "false"}
    lines: dict[str, object] = {
        "standard": (("fgsm", {}, None), ("pgd", pgd, 1.5), ("pgd", pgd, 0.0))
    }
    monkeypatch.setattr(plans, "PLANS", lines)
    report = evaluate(model, digits(30), threat())
    first, everybody, nobody = report.attacks
    assert everybody.examples_in == first.examples_in - first.broken
    assert nobody.examples_in == 0


def test_what_no_attack_has_moved_gets_every_attack(
    model: CNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Steps have no slope, so that attacks on the gradient stay where they are.
    steps = nn.Sequential(model, Rounded())
    pgd = {"steps": "3", "random_start": "false"}
    lines: dict[str, object] = {"standard": (("pgd", pgd, None), ("pgd", pgd, 0.0))}
    monkeypatch.setattr(plans, "PLANS", lines)
    blind = evaluate(steps, digits(20), threat())
    assert blind.attacks[0].broken == 0
    assert blind.attacks[1].examples_in == blind.attacks[0].examples_in > 0


class Rounded(nn.Module):
    def forward(self, logits: Tensor) -> Tensor:
        return logits.round()


def test_fgsm_takes_its_gradient_on_the_clean_pass_and_finds_the_same(model: CNN) -> None:
    images = digits(30)
    shared = evaluate(model, images, threat(), attacks=[FGSM()])
    # Behind another attack that breaks nothing it makes passes of its own.
    idle = PGD(steps=1, step_size=1e-9, random_start=False)
    alone = evaluate(model, images, threat(), attacks=[idle, FGSM()])
    assert [(e.status, e.distance) for e in shared.examples] == [
        (e.status, e.distance) for e in alone.examples
    ]
    assert (shared.attacks[0].forward, alone.attacks[1].forward) == (
        0,
        alone.attacks[1].examples_in,
    )
    assert shared.attacks[0].queries == shared.attacks[0].examples_in


def test_accuracy_over_passes_falls_from_the_clean_one_to_the_verdict(model: CNN) -> None:
    report = evaluate(model, digits(40), threat(), attacks=[FGSM(), PGD(steps=10)])
    points = report.curves.passes
    assert points is not None
    assert points[0].passes == 1
    assert points[0].robust == pytest.approx(report.clean_accuracy.value)
    assert points[-1].robust == pytest.approx(report.robust_accuracy.value)
    assert [p.passes for p in points] == sorted(p.passes for p in points)
    assert [p.robust for p in points] == sorted((p.robust for p in points), reverse=True)
    # FGSM's success costs the clean pass, a gradient and the judgement.
    assert points[1].passes == 3


def test_a_sweep_gives_the_accuracy_at_every_radius(model: CNN) -> None:
    images = digits(30)
    report = evaluate(model, images, threat(), attacks=[PGD(steps=20)], eps_sweep=[0.05, 0.1, 0.4])
    points = report.curves.eps
    assert points is not None
    assert [p.eps for p in points] == [0.05, 0.1, 0.2, 0.4]
    assert [p.robust for p in points] == sorted((p.robust for p in points), reverse=True)
    assert points[2].robust == pytest.approx(report.robust_accuracy.value)
    assert report.attacks[-1].name == "fmn"
    assert report.attacks[-1].examples_in == round(30 * report.clean_accuracy.value)
    assert "fmn" not in {skipped.name for skipped in report.skipped}
    direct = evaluate(model, images, threat().with_radius(0.1), attacks=[PGD(steps=40)])
    assert points[1].robust == pytest.approx(direct.robust_accuracy.value, abs=0.07)


def test_a_sweep_needs_no_second_search_for_distances(model: CNN) -> None:
    report = evaluate(model, digits(6), threat(), attacks=[FMN(steps=30)], eps_sweep=[0.1])
    assert [row.name for row in report.attacks] == ["fmn"]
    assert report.curves.eps is not None


def test_a_reference_is_told_apart_and_what_it_breaks_counts(model: CNN) -> None:
    images = digits(30)
    weak = PGD(steps=1, step_size=1e-9, random_start=False)
    alone = evaluate(model, images, threat(), attacks=[weak])
    report = evaluate(model, images, threat(), attacks=[weak], reference="pgd")
    assert report.cost.forward == alone.cost.forward
    assert [row.name for row in report.attacks] == ["pgd"]
    (found,) = reference(report)
    assert found["broken"] > 0
    assert found["examples_in"] == round(30 * report.clean_accuracy.value)
    assert report.robust_accuracy.value < alone.robust_accuracy.value
    assert "reference-broke-more" in {flag.id for flag in report.flags}
    some = evaluate(model, images, threat(), attacks=[weak], reference="pgd", reference_n=5)
    assert reference(some)[0]["examples_in"] == 5


def test_the_sample_for_a_reference_does_not_depend_on_the_order(model: CNN) -> None:
    weak = PGD(steps=1, step_size=1e-9, random_start=False)
    images = digits(20)
    turned = images.take(list(reversed(range(20))))
    broken = []
    for given in (images, turned):
        report = evaluate(
            model, given, threat().with_radius(0.9), attacks=[weak], reference="pgd", reference_n=4
        )
        broken.append({e.id for e in report.examples if e.status == "broken"})
    assert broken[0] == broken[1]
    assert len(broken[0]) == 4


def reference(report: EvasionReport) -> list[dict[str, Any]]:
    found = report.diagnostics["reference"]
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize(
    "call",
    [
        lambda model: evaluate(model, digits(4), threat(), reference_n=3),
        lambda model: evaluate(model, digits(4), threat(), reference="pgd", reference_n=0),
        lambda model: evaluate(model, digits(4), threat(), reference="pdg"),
    ],
)
def test_references_that_mean_nothing_are_refused(
    call: Callable[[CNN], object], model: CNN
) -> None:
    with pytest.raises(BadInput):
        call(model)


def test_a_reference_that_does_not_fit_is_refused(model: CNN) -> None:
    with pytest.raises(DoesNotFit):
        evaluate(model, digits(4), threat(), reference="cgba")


def test_who_has_no_attack_is_told_of_one_that_fits(model: CNN) -> None:
    few_pixels = ThreatModel(name="pixels", perturbation=LpBall(norm="l0", radius=3))
    with pytest.raises(DoesNotFit, match="for example --attacks foolbox:PointwiseAttack"):
        evaluate(model, digits(4), few_pixels)


def test_the_report_with_all_of_it_is_valid_json(model: CNN) -> None:
    report = evaluate(model, digits(6), threat(), plan="fast", eps_sweep=[0.1], reference="pgd")
    table = json.loads(report.to_json())
    assert {"passes", "eps"} <= table["curves"].keys()
    assert table["attacks"][3]["lead_left"] == 0.7


@pytest.mark.parametrize(
    ("norm", "access", "attack"),
    [
        ("linf", Access.SCORE, "square"),
        ("l2", Access.SCORE, "square"),
        ("linf", Access.DECISION, "rays"),
        ("l2", Access.DECISION, "cgba"),
    ],
)
def test_a_plan_uses_all_that_the_threat_grants(norm: str, access: Access, attack: str) -> None:
    adversary = replace(load(norm), access=access)
    for name in plans.PLANS:
        assert plans.plan(name, adversary)[-1].name == attack

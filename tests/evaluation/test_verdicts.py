"""The main job on a model whose verdict could be wrong both ways."""

import json
from dataclasses import replace

import jsonschema
import pytest
import torch

from robustkit import data, evaluate, registry
from robustkit.attacks import FGSM, PGD, build
from robustkit.data import LabelledImages
from robustkit.errors import BadInput, DoesNotFit
from robustkit.evaluation import plans
from robustkit.models.cnn import CNN
from robustkit.report import EvasionReport, schema
from robustkit.threat_models import Access, Budget, Stage, Targeted, ThreatModel, parse_goal
from tests.evaluation.victims import RADII, digits, threat, victim


def check(report: EvasionReport) -> None:
    """What every report of an honest run fulfils, whatever its verdict."""
    jsonschema.validate(json.loads(report.to_json()), schema())
    statuses = [example.status for example in report.examples]
    n = len(statuses)
    right = n - statuses.count("misclassified")
    standing = right - statuses.count("broken")
    assert report.clean_accuracy.value == right / n
    assert report.robust_accuracy.value == standing / n
    assert report.robust_accuracy.low <= standing / n <= report.robust_accuracy.high
    assert report.verdict.value == report.accuracies.worst.value == report.robust_accuracy.value
    assert sum(row.broken for row in report.attacks) == statuses.count("broken")
    assert report.violations == 0
    assert "violation" not in statuses
    assert all(
        (example.attack is not None) == (example.status == "broken") for example in report.examples
    )


@pytest.mark.parametrize("norm", RADII)
def test_the_standard_plan_leaves_a_part_standing(norm: str, model: CNN) -> None:
    report = evaluate(model, digits(60), threat(norm), batch_size=64)
    check(report)
    assert 0.3 <= report.robust_accuracy.value <= 0.7
    assert report.clean_accuracy.value >= 0.9
    lines = plans.plan("standard", threat(norm))
    assert [row.name for row in report.attacks] == [line.name for line in lines]
    radius = RADII[norm] * (1 + 1e-5)
    assert all(e.distance <= radius for e in report.examples if e.distance is not None)


def test_the_verdict_falls_with_the_radius_from_all_to_nothing(
    model: CNN, images: LabelledImages
) -> None:
    values = []
    for radius in (0.0, 0.05, 0.2, 1.0):
        report = evaluate(model, images, threat().with_radius(radius), attacks=[PGD(steps=10)])
        check(report)
        values.append(report.robust_accuracy.value)
    assert values == sorted(values, reverse=True)
    assert values[0] == report.clean_accuracy.value
    assert values[-1] == 0


@pytest.mark.parametrize("words", ["targeted", "targeted:least-likely", "targeted:second"])
def test_a_targeted_goal_is_reached_by_the_target_alone(
    words: str, model: CNN, images: LabelledImages
) -> None:
    wide = threat().with_radius(0.3)
    adversary = replace(wide, goal=parse_goal(words))
    report = evaluate(model, images, adversary, attacks=[PGD(steps=20)])
    check(report)
    untargeted = evaluate(model, images, wide, attacks=[PGD(steps=20)])
    assert report.robust_accuracy.value > untargeted.robust_accuracy.value
    assert report.robust_accuracy.value < report.clean_accuracy.value


def test_harder_targets_are_reached_less_often(model: CNN, images: LabelledImages) -> None:
    values = {}
    for selection in ("second", "random", "least-likely"):
        adversary = ThreatModel(
            name=selection,
            goal=Targeted(selection),
            perturbation=threat().perturbation,
        )
        report = evaluate(model, images, adversary, attacks=[PGD(steps=20)])
        values[selection] = report.robust_accuracy.value
    assert values["second"] < values["random"] <= values["least-likely"]


def test_labels_alone_suffice_for_hop_skip_jump(model: CNN) -> None:
    adversary = ThreatModel(
        name="labels",
        access=Access.DECISION,
        perturbation=threat("l2").with_radius(1.5).perturbation,
        budget=Budget(queries=300),
    )
    report = evaluate(model, digits(8), adversary, attacks=["foolbox:HopSkipJumpAttack"])
    check(report)
    (row,) = report.attacks
    assert 0 < row.broken < row.examples_in
    assert row.backward == 0
    assert all(0 < e.queries <= 300 for e in report.examples if e.queries is not None)
    assert row.queries == sum(e.queries or 0 for e in report.examples)
    # A minimising attack measures all that it breaks, inside the radius or not.
    measured = [e.distance for e in report.examples if e.status in ("broken", "robust")]
    assert None not in measured


def test_autoattack_runs_on_what_it_breaks_at_once(model: CNN) -> None:
    adversary = threat().with_radius(0.6)
    report = evaluate(model, digits(8), adversary, attacks=["autoattack"], batch_size=8)
    check(report)
    assert [row.name for row in report.attacks] == ["autoattack"]
    assert "foreign-attack" in {flag.id for flag in report.flags}
    assert report.robust_accuracy.value == 0


@pytest.mark.slow
def test_autoattack_agrees_with_the_standard_plan(model: CNN) -> None:
    images = digits(12)
    foreign = evaluate(model, images, threat(), attacks=["autoattack"], batch_size=12)
    own = evaluate(model, images, threat(), batch_size=12)
    check(foreign)
    differing = [
        (a, b) for a, b in zip(foreign.examples, own.examples, strict=True) if a.status != b.status
    ]
    assert len(differing) <= 1, differing


def test_attacks_run_in_the_order_given(model: CNN, images: LabelledImages) -> None:
    report = evaluate(model, images, threat(), attacks=[PGD(steps=3), FGSM(), PGD(steps=9)])
    assert [row.name for row in report.attacks] == ["pgd", "fgsm", "pgd"]
    assert [row.options.get("steps") for row in report.attacks] == [3, None, 9]
    words = evaluate(model, images, threat(), attacks=["fgsm", build("pgd", {"steps": "3"})])
    assert [row.name for row in words.attacks] == ["fgsm", "pgd"]


def test_what_does_not_run_is_listed_with_its_reason(model: CNN) -> None:
    report = evaluate(model, digits(4), threat())
    reasons = {skipped.name: skipped.reason for skipped in report.skipped}
    ran = {row.name for row in report.attacks}
    assert ran == {"fgsm", "pgd", "apgd"}
    others = set(registry.entries("attacks")) - ran
    assert reasons == dict.fromkeys(others, "not in plan")
    assert {"autoattack", "foolbox"} <= others
    report = evaluate(model, digits(4), threat(), attacks=["pgd"])
    assert {skipped.name for skipped in report.skipped} == {*others, "fgsm", "apgd"}


def test_an_attack_of_the_plan_that_does_not_fit_is_skipped_and_said_why(
    model: CNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    adversary = replace(threat(), goal=Targeted("random"))
    chosen: dict[str, object] = {"standard": (("step-ll", {}, None), ("fgsm", {}, None))}
    monkeypatch.setattr(plans, "PLANS", chosen)
    report = evaluate(model, digits(4), adversary)
    reasons = {skipped.name: skipped.reason for skipped in report.skipped}
    assert [row.name for row in report.attacks] == ["fgsm"]
    assert "pursues untargeted goals, the threat's is targeted" in reasons["step-ll"]


def test_attacks_of_a_plan_that_do_not_fit_are_skipped_and_said_why(model: CNN) -> None:
    adversary = ThreatModel(
        name="labels",
        goal=Targeted("random"),
        access=Access.DECISION,
        perturbation=threat("l1").perturbation,
    )
    with pytest.raises(DoesNotFit, match="cgba-h: it works in l2, the threat allows l1"):
        evaluate(model, digits(4), adversary)
    with pytest.raises(DoesNotFit, match=r"pgd does not fit.*needs gradient access"):
        evaluate(model, digits(4), adversary, attacks=["pgd"])


def test_a_threat_without_changed_inputs_is_refused(model: CNN) -> None:
    for adversary in (
        ThreatModel(name="idle"),
        ThreatModel(name="late", stage=Stage.RELEASE, perturbation=threat().perturbation),
    ):
        with pytest.raises(BadInput, match=f"{adversary.name!r} is about"):
            evaluate(model, digits(4), adversary)


def test_an_empty_list_of_attacks_is_refused(model: CNN) -> None:
    with pytest.raises(BadInput, match="list of attacks is empty"):
        evaluate(model, digits(4), threat(), attacks=[])


def test_every_kind_of_model_and_data_gives_the_same_verdict(model: CNN) -> None:
    images = digits(12)
    pair = (images.inputs(slice(None)), images.labels)
    attacks = [PGD(steps=5)]
    direct = evaluate(model, images, threat(), attacks=attacks)
    tensors = evaluate(victim(), pair, threat(), attacks=attacks)
    assert direct.examples == tensors.examples
    assert tensors.data.spec == "tensors"
    assert tensors.model.spec == "CNN"
    assert evaluate(model, "digits", threat(), attacks=[FGSM()]).data.n == 360


def test_a_caller_that_forbids_gradients_changes_nothing(
    model: CNN, images: LabelledImages
) -> None:
    expected = evaluate(model, images, threat(), attacks=[PGD(steps=5)])
    with torch.no_grad():
        report = evaluate(model, images, threat(), attacks=[PGD(steps=5)])
    assert report.examples == expected.examples
    assert report.flags == expected.flags
    with torch.inference_mode():
        report = evaluate(model, images, threat(), attacks=[PGD(steps=5)])
    assert report.examples == expected.examples


def test_a_caller_in_half_precision_gets_verdicts_in_float32(
    model: CNN, images: LabelledImages
) -> None:
    expected = evaluate(model, images, threat(), attacks=[PGD(steps=5)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        report = evaluate(model, images, threat(), attacks=[PGD(steps=5)])
    assert report.examples == expected.examples


def test_the_real_network_falls_to_autoattack() -> None:
    images = "samples:cifar10"
    report = evaluate("builtin:cifar10-resnet18", _few(images), "linf", attacks=["autoattack"])
    check(report)
    assert (report.clean_accuracy.value, report.robust_accuracy.value) == (1, 0)


@pytest.mark.slow
def test_the_real_network_falls_to_autoattack_on_all_images() -> None:
    report = evaluate("builtin:cifar10-resnet18", "samples:cifar10", "linf", attacks=["autoattack"])
    check(report)
    assert (report.clean_accuracy.value, report.robust_accuracy.value) == (1, 0)
    assert report.verdict.n == 20


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_the_real_network_falls_in_other_norms(norm: str) -> None:
    report = evaluate("builtin:cifar10-resnet18", _few("samples:cifar10"), norm)
    check(report)
    assert (report.clean_accuracy.value, report.robust_accuracy.value) == (1, 0)


def _few(spec: str) -> LabelledImages:
    return data.load(spec, n=2)

"""Evaluations in which the adversary sees labels only."""

import json
import statistics
from dataclasses import asdict, replace
from pathlib import Path

import jsonschema
import pytest
import torch

from robustkit import evaluate
from robustkit.attacks import FMN
from robustkit.data import LabelledImages
from robustkit.evaluation.labels import OWNED, marks, owned_images
from robustkit.models.cnn import CNN
from robustkit.randomness import Streams
from robustkit.report import EvasionReport, schema
from robustkit.threat_models import (
    Access,
    Budget,
    Gradients,
    Meter,
    Objective,
    Targeted,
    ThreatModel,
    grant,
    load,
)
from tests.evaluation.victims import RADII, Counting, digits
from tests.oracles import Constant


def threat(name: str, queries: int = 300, *, targeted: bool = False) -> ThreatModel:
    adversary = load(name).with_radius(RADII[name.partition("-")[0]])
    goal = Targeted("random") if targeted else adversary.goal
    return replace(adversary, budget=Budget(queries=queries), goal=goal)


@pytest.mark.parametrize(
    ("name", "targeted", "attack"),
    [
        ("l2-decision", False, "cgba"),
        ("linf-decision", False, "rays"),
        ("l2-decision", True, "cgba-h"),
        ("linf-decision", True, "hop-skip-jump"),
    ],
)
def test_the_plan_of_a_threat_that_grants_labels(
    name: str, targeted: bool, attack: str, model: CNN
) -> None:
    adversary = threat(name, targeted=targeted)
    report = evaluate(model, digits(12), adversary)
    jsonschema.validate(json.loads(report.to_json()), schema())
    assert [row.name for row in report.attacks] == [attack]
    assert targeted == any(flag.id == "owned-images" for flag in report.flags)
    assert report.violations == 0
    right = [example for example in report.examples if example.status != "misclassified"]
    assert all(0 < (example.queries or 0) <= 300 for example in right)
    assert "not_started" not in {example.status for example in right}
    points = report.curves.queries
    assert points is not None
    assert [point.queries for point in points] == [250, 300]
    distances = sorted(example.distance or float("inf") for example in right)
    middle = len(distances) // 2
    median = (
        distances[middle] if len(distances) % 2 else sum(distances[middle - 1 : middle + 1]) / 2
    )
    assert points[-1].median == pytest.approx(median)
    assert points[0].median is not None
    assert points[0].median >= median
    spread = report.curves.distances
    assert spread is not None
    assert {point.queries for point in spread} == {250, 300}
    last = [point for point in spread if point.queries == 300]
    assert [point.distance for point in last] == pytest.approx(sorted(set(distances)))
    assert last[-1].success == 1
    radius = adversary.allowed.radius
    within = max((point.success for point in last if point.distance <= radius), default=0)
    assert within == points[-1].success
    broken = sum(example.status == "broken" for example in right)
    assert points[-1].success == pytest.approx(broken / len(right))


@pytest.mark.parametrize("name", ["l2-decision", "linf-decision"])
def test_distances_are_compared_with_the_nearest_points_known(name: str, model: CNN) -> None:
    data, adversary = digits(12), threat(name)
    report = evaluate(model, data, adversary)
    points, nearest = report.curves.queries, report.curves.nearest
    assert points is not None
    assert nearest is not None
    assert nearest.median is not None
    assert 0 < nearest.median <= (points[-1].median or 0)
    times = [point.times_nearest or float("inf") for point in points]
    assert times == sorted(times, reverse=True)
    # Gradients lead nearer than labels do, and by how much is said.
    assert 1 < times[-1] < 10
    found = report.diagnostics["white_box"]
    assert isinstance(found, dict)
    right = sum(example.status != "misclassified" for example in report.examples)
    assert (found["name"], found["examples"], found["found"]) == ("fmn", right, right)
    assert (found["forward"], found["backward"]) == (101 * right, 100 * right)
    # It costs the adversary nothing and decides nothing.
    assert [row.name for row in report.attacks] == [report.attacks[0].name]
    assert report.cost.backward == 0
    clean = data.inputs(torch.arange(len(data)))
    streams = Streams.of(seed=0, ids=data.ids)
    view = grant(Meter(model, streams), Access.GRADIENT)
    assert isinstance(view, Gradients)
    changed = FMN().run(view, clean, Objective(data.labels), adversary.allowed, streams=streams)
    distance = adversary.allowed.distance(clean, changed)
    ratios = [
        (example.distance or float("inf")) / min(float(known), example.distance or float("inf"))
        for example, known in zip(report.examples, distance, strict=True)
        if example.status != "misclassified"
    ]
    assert times[-1] == pytest.approx(statistics.median(ratios), rel=1e-3)


def test_nothing_is_compared_where_no_gradient_is_to_be_had(model: CNN) -> None:
    class Hidden(torch.nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = model(inputs)
            return logits.detach()

    report = evaluate(Hidden(), digits(4), threat("l2-decision", 60))
    assert report.curves.queries is not None
    assert report.curves.nearest is None
    assert report.curves.queries[0].times_nearest is None
    assert "white_box" not in report.diagnostics
    white = evaluate(model, digits(4), load("l2").with_radius(0.1), attacks=["fgsm"])
    assert "white_box" not in white.diagnostics


@pytest.mark.parametrize(
    ("name", "targeted"),
    [
        ("l2-decision", False),
        ("linf-decision", False),
        ("l2-decision", True),
        ("linf-decision", True),
    ],
)
def test_a_classifier_that_always_says_the_same_is_never_started_on(
    name: str, targeted: bool
) -> None:
    images = digits(3).inputs(torch.arange(3))
    zeros = torch.zeros(3, dtype=torch.int64)
    report = evaluate(Constant(), (images, zeros), threat(name, 80, targeted=targeted))
    assert [example.status for example in report.examples] == ["not_started"] * 3
    assert report.robust_accuracy.value == 1
    (row,) = report.attacks
    assert (row.broken, row.violations) == (0, 0)
    points = report.curves.queries
    assert points is not None
    assert [(point.median, point.success) for point in points] == [(None, 0.0)]


def test_white_boxes_have_no_curve_over_queries(model: CNN) -> None:
    report = evaluate(model, digits(4), load("linf").with_radius(0.1), attacks=["fgsm"])
    assert report.curves.queries is None
    endless = replace(threat("l2-decision"), budget=Budget())
    report = evaluate(model, digits(2), endless, attacks=["foolbox:SaltAndPepperNoiseAttack"])
    assert report.curves.queries is None


def test_an_interrupted_run_goes_on_to_the_same_curve(tmp_path: Path, model: CNN) -> None:
    def run(out: Path, *, resume: bool = False) -> EvasionReport:
        return evaluate(
            model, digits(12), threat("l2-decision", 120), out=out, resume=resume, batch_size=4
        )

    whole = run(tmp_path / "one")
    records = tmp_path / "one" / "records.jsonl"
    lines = records.read_bytes().splitlines(keepends=True)
    records.write_bytes(b"".join(lines[:-1]))
    again = run(tmp_path / "one", resume=True)
    assert again.curves == whole.curves
    assert [asdict(e) for e in again.examples] == [asdict(e) for e in whole.examples]


def test_a_complete_run_is_resumed_without_asking_for_the_nearest_points_again(
    tmp_path: Path, model: CNN
) -> None:
    def run(counting: Counting, *, resume: bool = False) -> EvasionReport:
        adversary = threat("l2-decision", 40)
        return evaluate(counting, digits(6), adversary, out=tmp_path, resume=resume, batch_size=4)

    first, again = Counting(model), Counting(model)
    whole, resumed = run(first), run(again, resume=True)
    assert (resumed.curves, resumed.examples) == (whole.curves, whole.examples)
    assert resumed.diagnostics["white_box"] == whole.diagnostics["white_box"]
    # What is left are the checks that the model is still what it was.
    found = whole.diagnostics["white_box"]
    assert isinstance(found, dict)
    checks = first.count.rows - whole.cost.rows_run - found["rows_run"]
    assert again.count.rows == checks < found["rows_run"]
    kept = tmp_path / "white_box.json"
    kept.write_bytes(kept.read_bytes()[:-10])
    assert run(Counting(model), resume=True).curves == whole.curves
    assert json.loads(kept.read_text())["rows"]


def test_marks_end_at_the_budget() -> None:
    assert marks(threat("l2-decision", 5000)) == (250, 500, 1000, 2000, 5000)
    assert marks(threat("l2-decision", 100)) == (100,)
    assert marks(load("l2")) == ()


def test_the_adversary_owns_images_of_the_target_class_whatever_their_order() -> None:
    images = digits(40)
    targets = torch.tensor([3, 5, 3])
    streams = Streams.of(seed=0, ids=torch.tensor([11, 12, 13]))
    owned = owned_images(images, targets, streams)
    assert owned.shape == (3, OWNED, 1, 8, 8)
    known = {image.numpy().tobytes(): int(label) for image, label in _pairs(images)}
    for row, target in enumerate(targets.tolist()):
        there = owned[row][owned[row].isfinite().flatten(1).all(1)]
        assert len(there) == min(OWNED, int((images.labels == target).sum()))
        assert {known[image.numpy().tobytes()] for image in there} == {target}
    shuffled = images.take(torch.randperm(40, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(
        owned_images(shuffled, targets, streams).nan_to_num(-1), owned.nan_to_num(-1)
    )
    missing = images.take((images.labels != 5).nonzero()[:, 0])
    assert bool(owned_images(missing, targets, streams)[1].isnan().all())


def _pairs(images: LabelledImages) -> list[tuple[torch.Tensor, int]]:
    return [(images.inputs([row])[0], int(images.labels[row])) for row in range(len(images))]

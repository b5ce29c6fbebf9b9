"""Neither order, shard nor neighbours change a bit; the width of a batch hardly a verdict."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustkit import evaluate
from robustkit.attacks import FGSM, PGD, EvasionAttack
from robustkit.data import LabelledImages
from robustkit.evaluation import plans
from robustkit.models.cnn import CNN
from robustkit.report import EvasionReport, ExampleRow
from robustkit.threat_models import ThreatModel, parse_goal
from tests.evaluation.victims import digits, outcome, threat

PLAN: list[EvasionAttack[Any]] = [
    FGSM(),
    PGD(steps=6, restarts=2),
    PGD(steps=8, loss="margin", momentum=0.5),
]
GOALS = ["untargeted", "targeted", "targeted:second"]


class Telling(nn.Module):
    """Its answers tell in how many rows it is run."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs)
        return logits + 0.1 * torch.arange(logits.shape[1]).mul(len(inputs)).cos()


def adversary(goal: str) -> ThreatModel:
    return ThreatModel(name="linf", goal=parse_goal(goal), perturbation=threat().perturbation)


def run(
    model: nn.Module,
    images: LabelledImages,
    goal: str = "untargeted",
    *,
    width: int = 16,
    seed: int = 0,
    out: Path | None = None,
) -> EvasionReport:
    return evaluate(
        model, images, adversary(goal), attacks=PLAN, batch_size=width, seed=seed, out=out
    )


def rows(*reports: EvasionReport) -> dict[int, ExampleRow]:
    return {example.id: example for report in reports for example in report.examples}


def points(folder: Path) -> dict[int, Tensor]:
    from safetensors.torch import load_file

    found = load_file(folder / "examples.safetensors")
    return dict(zip(found["ids"].tolist(), found["inputs"], strict=True))


@pytest.mark.parametrize("goal", GOALS)
def test_order_changes_nothing(goal: str, model: CNN, tmp_path: Path) -> None:
    images = digits(50)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    plain = run(Telling(model), images, goal, out=tmp_path / "a")
    mixed = run(Telling(model), images.take(order), goal, out=tmp_path / "b")
    assert [example.id for example in mixed.examples] == order.tolist()
    assert rows(plain) == rows(mixed)
    assert 0 < plain.robust_accuracy.value < plain.clean_accuracy.value
    a, b = points(tmp_path / "a"), points(tmp_path / "b")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[id_], b[id_]) for id_ in a)


@pytest.mark.parametrize("goal", GOALS)
def test_shards_add_up_to_the_whole(goal: str, model: CNN) -> None:
    images = digits(50)
    whole = run(Telling(model), images, goal)
    parts = [run(Telling(model), images.take(slice(start, None, 2)), goal) for start in (0, 1)]
    assert rows(whole) == rows(*parts)
    for whole_row, *part_rows in zip(whole.attacks, *(p.attacks for p in parts), strict=True):
        assert whole_row.broken == sum(row.broken for row in part_rows)
        assert whole_row.forward == sum(row.forward for row in part_rows)
        assert whole_row.backward == sum(row.backward for row in part_rows)


def test_lines_in_narrow_batches_are_no_exception(
    model: CNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (("pgd", {"steps": "4"}, None), ("apgd", {"loss": "margin", "steps": "10"}, 0.2))
    monkeypatch.setattr(plans, "PLANS", {"short": lines})
    images = digits(90)
    order = torch.randperm(90, generator=torch.Generator().manual_seed(0))
    whole, mixed, *halves = (
        evaluate(Telling(model), part, threat(), plan="short", batch_size=16)
        for part in (images, images.take(order), *(images.take(slice(i, None, 2)) for i in (0, 1)))
    )
    narrow = whole.attacks[-1]
    assert narrow.examples_in > 8
    assert 0 < narrow.broken < narrow.examples_in
    assert rows(whole) == rows(mixed) == rows(*halves)
    for row, *parts in zip(whole.attacks, *(half.attacks for half in halves), strict=True):
        assert row.forward == sum(part.forward for part in parts)
        assert row.backward == sum(part.backward for part in parts)


def test_one_example_alone_fares_as_among_others(model: CNN) -> None:
    images = digits(20)
    whole = run(Telling(model), images)
    alone = [run(Telling(model), images.take([row])) for row in (3, 11, 19)]
    assert all(rows(whole)[id_] == row for id_, row in rows(*alone).items())


def test_widths_agree(model: CNN) -> None:
    images = digits(120)
    reports = [run(model, images, width=width) for width in (1, 7, 120)]
    statuses = [[example.status for example in report.examples] for report in reports]
    for other in statuses[1:]:
        differing = sum(a != b for a, b in zip(statuses[0], other, strict=True))
        assert differing <= 0.005 * len(images)
    assert [report.environment.width for report in reports] == [1, 7, 120]


def test_the_same_seed_gives_the_same_report_and_another_seed_other_points(
    model: CNN, images: LabelledImages, tmp_path: Path
) -> None:
    folders = [tmp_path / name for name in "abc"]
    reports = [
        run(model, images, seed=seed, out=folder)
        for seed, folder in zip((5, 5, 6), folders, strict=True)
    ]
    assert outcome(reports[0]) == outcome(reports[1])
    a, b, c = map(points, folders)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[id_], b[id_]) for id_ in a)
    both = a.keys() & c.keys()
    # FGSM draws nothing, so that what it breaks is the same under every seed.
    assert any(not torch.equal(a[id_], c[id_]) for id_ in both)
    assert any(torch.equal(a[id_], c[id_]) for id_ in both)


def test_random_targets_depend_on_the_seed(model: CNN, images: LabelledImages) -> None:
    statuses = {
        seed: [example.status for example in run(model, images, "targeted", seed=seed).examples]
        for seed in (0, 1)
    }
    assert statuses[0] != statuses[1]


def test_two_entries_of_one_attack_draw_different_numbers(
    model: CNN, images: LabelledImages
) -> None:
    weak = PGD(steps=1, step_size=1e-9)
    report = evaluate(model, images, threat(), attacks=[weak] * 12)
    # A walk that hardly moves is a random guess: were the guesses the same, only one would hit.
    assert sum(row.broken > 0 for row in report.attacks) > 1

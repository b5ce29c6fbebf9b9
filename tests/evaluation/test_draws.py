"""Random models: chosen and scored on different draws, attacked on averages, voted on."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from robustkit import evaluate
from robustkit.attacks import FGSM, FMN, PGD, Square
from robustkit.attacks._eot import EOT
from robustkit.attacks.queued import searched
from robustkit.attacks.rows import Rows
from robustkit.data import LabelledImages
from robustkit.errors import BadInput
from robustkit.evaluation import draws, engine
from robustkit.evaluation.draws import DRAWS, mean_share, summed_up
from robustkit.evaluation.plans import Line
from robustkit.evaluation.records import Group, Records
from robustkit.randomness import Streams
from robustkit.report import EvasionReport, words
from robustkit.statistics import wilson
from robustkit.threat_models import (
    Access,
    Budget,
    LpBall,
    Meter,
    Objective,
    ThreatModel,
    grant,
    parse_goal,
)
from tests.evaluation.misleading import (
    FEW,
    SHORT,
    STEPS,
    Chained,
    Coin,
    Masked,
    N,
    Noisy,
    run,
    tossed,
    ways,
)
from tests.evaluation.victims import digits, outcome, threat, victim

pytestmark = pytest.mark.usefixtures("few_draws")
RUNGS = draws.RUNGS


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EvasionReport]:
    folder = tmp_path_factory.mktemp("noisy") / "out"
    return folder, noisy_run(out=folder)


def noisy_run(**changes: Any) -> EvasionReport:  # noqa: ANN401
    return run(Noisy(surrogate=victim()), **{"data": digits(FEW), "attacks": SHORT, **changes})


def test_a_random_model_is_judged_over_fresh_draws(noisy: tuple[Path, EvasionReport]) -> None:
    _, report = noisy
    found = report.draws
    assert found is not None
    assert found.count == DRAWS >= 20
    assert found.all.value <= found.mean.value
    assert found.all.value < found.majority.value < report.clean_accuracy.value
    assert report.robust_accuracy == found.mean == report.accuracies.worst
    assert report.verdict.value == found.mean.value
    # A mean over draws, not a count of examples; the interval is one of the examples.
    assert (found.mean.value * FEW) % 1
    assert found.mean == wilson(found.mean.value * FEW, FEW)
    assert 0 < report.clean_accuracy.value < 1
    stand = sum(example.status == "robust" for example in report.examples)
    assert found.majority.value == pytest.approx(stand / FEW)
    assert words.left(report)[-1][1] == pytest.approx(stand / FEW)
    broken = [example.attack is not None for example in report.examples]
    assert broken == [example.status == "broken" for example in report.examples]


def test_a_random_model_has_no_curve_over_the_radius() -> None:
    report = run(Noisy(), data=digits(4), attacks=[PGD(steps=1)], eps_sweep=[0.1])
    assert report.curves.eps is None
    assert "no-eps-curve" in {flag.id for flag in report.flags}
    assert "fmn" not in {row.name for row in report.attacks}


def test_random_models_are_attacked_on_averages(noisy: tuple[Path, EvasionReport]) -> None:
    _, report = noisy
    assert ways(report) == ["direct", "surrogate:network", "bpda", "eot", "warm"]
    averages = [row for row in report.attacks if row.through == "eot"]
    assert [row.options["average"] for row in averages] == [4, 6, 20]
    assert RUNGS == (10, 20, 100)
    assert all(row.options["momentum"] == 0.75 for row in averages)
    first, second, last = averages
    # Each draw is a query and a gradient.
    assert first.queries == 4 * STEPS * first.examples_in == first.backward
    assert 0 < second.examples_in < first.examples_in
    assert last.queries == 20 * STEPS * last.examples_in
    # All examples are attacked, those too that are wrong on one draw.
    assert report.attacks[0].examples_in == FEW


def test_the_best_points_so_far_are_looked_up_once_for_each_attack(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[int] = []

    def counting(records: Records, count: int, stage: int, through: str) -> torch.Tensor:
        looked.append(stage)
        return draws.best_before(records, count, stage, through)

    monkeypatch.setattr(engine, "best_before", counting)
    report = run(Noisy(), data=digits(8), attacks=[PGD(steps=1)], batch_size=2)
    assert looked == [stage for stage, row in enumerate(report.attacks) if row.examples_in]


def test_judging_by_draws_is_part_of_the_cost() -> None:
    report = run(Noisy(), attacks=[PGD(steps=1)])
    searched = sum(row.forward for row in report.attacks)
    judged = sum(row.examples_in for row in report.attacks)
    # The clean pass, 20 draws for choosing and 20 fresh ones of the clean images, and of what was
    # handed back at least 20.
    assert report.cost.forward >= N + 2 * DRAWS * N + searched + judged + DRAWS * judged
    assert report.cost.forward <= N + 2 * DRAWS * N + searched + judged + 2 * DRAWS * judged
    assert report.cost.rows_run >= report.cost.forward


def test_candidates_are_chosen_and_scored_on_different_draws() -> None:
    attacks = [PGD(steps=1, loss="margin") for _ in range(6)]
    report = run(Coin(0.5), data=tossed(200), attacks=attacks, batch_size=100)
    # Of several points of each example the luckiest is chosen, far below a half on the draws for
    # choosing. On fresh ones it is a coin again.
    assert report.robust_accuracy.value == pytest.approx(0.5, abs=0.03)
    assert "F10" in {flag.id for flag in report.flags}


def test_examples_that_most_draws_get_wrong_are_attacked_too() -> None:
    report = run(Coin(0.7), data=tossed(20), attacks=[PGD(steps=1)], batch_size=20)
    assert report.attacks[0].examples_in == 20
    assert 0 < report.robust_accuracy.value < 0.4


def test_averages_over_draws_break_more_than_one_draw() -> None:
    model = Noisy(spread=0.6)
    images, adversary = digits(N), threat()
    streams = Streams.of(seed=3, ids=images.ids, purpose="test")
    labels = Objective(images.labels)
    left = {}
    for count in (1, 20):
        view: Any = grant(Meter(model, streams, width=N), Access.GRADIENT)
        inner = PGD(steps=10, step_size=1 / 4, loss="margin", momentum=0.75)
        attack = EOT(attack=inner, average=count)
        clean = images.inputs(slice(None))
        points = attack.run(view, clean, labels, adversary.allowed, streams=streams)
        assert bool(adversary.allowed.contains(clean, points).all())
        assert view.spent.tolist() == [10 * count] * N
        fresh = streams.fork("fresh")
        with torch.no_grad():
            answers = [model.answer(points, streams=fresh.on_lanes(d)).labels for d in range(40)]
        left[count] = float((torch.stack(answers) == images.labels).float().mean())
    assert left[20] < left[1] - 0.05


def test_the_same_again_and_after_every_interruption(
    noisy: tuple[Path, EvasionReport], tmp_path: Path
) -> None:
    folder, expected = noisy
    assert outcome(noisy_run()) == outcome(expected)
    content = (folder / "records.jsonl").read_bytes()
    ends = [at + 1 for at, byte in enumerate(content) if byte == ord("\n")]
    assert len(ends) > 12
    for cut in (ends[2], ends[len(ends) // 2] - 7, ends[-2]):
        copy = tmp_path / str(cut)
        copy.mkdir()
        for name in ("run.json", "points.bin"):
            shutil.copy(folder / name, copy / name)
        (copy / "records.jsonl").write_bytes(content[:cut])
        again = noisy_run(out=copy, resume=True)
        assert outcome(again) == outcome(expected)
        assert again.draws == expected.draws


@pytest.mark.parametrize("make", [Masked, Noisy], ids=["masked", "noisy"])
def test_neither_order_nor_neighbours_matter(make: Callable[[], nn.Module]) -> None:
    images, attacks = digits(FEW), SHORT
    whole = {e.id: e for e in run(make(), data=images, attacks=attacks).examples}
    backwards = images.take(torch.arange(FEW).flip(0))
    assert {e.id: e for e in run(make(), data=backwards, attacks=attacks).examples} == whole
    few = images.take(torch.tensor([3, 9, 11]))
    assert all(e == whole[e.id] for e in run(make(), data=few, attacks=attacks).examples)


def test_one_image_is_kept_for_each_broken_example(noisy: tuple[Path, EvasionReport]) -> None:
    folder, report = noisy
    kept = load_file(folder / "examples.safetensors")
    broken = {e.id for e in report.examples if e.status == "broken"}
    assert broken
    assert sorted(kept["ids"].tolist()) == sorted(broken)


def test_a_model_that_is_always_wrong_at_random_is_misclassified() -> None:
    images = digits(N)
    wrong = LabelledImages.from_tensors(images.inputs(slice(None)), (images.labels + 1) % 10)
    report = run(Noisy(), data=wrong, attacks=[FGSM()])
    assert report.clean_accuracy.value < 0.1
    assert {e.status for e in report.examples} == {"misclassified"}
    assert all(e.clean_label != e.label for e in report.examples)


def test_targets_on_a_random_model() -> None:
    adversary = ThreatModel(
        name="linf", goal=parse_goal("targeted:second"), perturbation=threat().perturbation
    )
    attacks = [PGD(steps=5, loss="margin")]
    report = run(Noisy(), threat=adversary, attacks=attacks)
    untargeted = run(Noisy(), attacks=attacks)
    assert untargeted.robust_accuracy.value <= report.robust_accuracy.value
    assert report.robust_accuracy.value < report.clean_accuracy.value


def test_what_breaks_a_random_model_is_named_where_refusals_help() -> None:
    """Three draws of the clean image were neither right nor the target; the attack gets eight."""
    asked: dict[str, Any] = {
        "rows": [0],
        "labels": [1],
        "forward": 0,
        "rows_run": 0,
        "seconds": 0.0,
        "lead": [1.0],
    }
    records = Records(None, {})
    right = [3 * DRAWS // 4]
    wanted: list[int | None] = [DRAWS // 10]
    records.add(Group(stage=-1, selected=[0], scored=wanted, right=right, **asked))
    attack = Group(
        stage=0,
        outcome=["broken"],
        distance=[0.1],
        passes=[1],
        selected=[DRAWS],
        scored=[2 * DRAWS // 5],
        **asked,
    )
    drawn = draws.Drawn(digits(1), records, [Line(name="pgd", attack=PGD())])
    assert drawn.status(0) == "robust"
    drawn.take(0, [attack])
    assert (drawn.status(0), int(drawn.broken_by[0])) == ("broken", 0)


def test_violations_on_a_random_model_score_nothing() -> None:
    report = run(Noisy(spread=0.1), attacks=[Chained()])
    assert report.violations > N // 2
    assert report.attacks[0].broken <= N - report.violations


def test_the_interval_respects_examples_as_units() -> None:
    assert mean_share(torch.tensor([DRAWS, 0, DRAWS, DRAWS])) == wilson(3, 4)
    assert mean_share(torch.tensor([DRAWS // 2] * 6)) == wilson(3, 6)
    withstood = torch.tensor([DRAWS, DRAWS - 1, DRAWS // 2 + 1, DRAWS // 2, 0])
    right = torch.ones(5, dtype=torch.bool)
    found = summed_up(withstood, right)
    assert (found.majority.value, found.all.value) == (0.6, 0.2)
    # Lucky draws win nothing back that was lost on the clean image.
    right[0] = False
    found = summed_up(withstood, right)
    assert (found.majority.value, found.all.value) == (0.4, 0.0)


def test_a_lucky_draw_ends_no_search() -> None:
    """Every attempt makes its steps, and the point that wins most draws is what comes back."""
    model, images = Noisy(spread=0.6), digits(6)
    streams = Streams.of(seed=0, ids=images.ids)
    view: Any = grant(Meter(model, streams, width=6), Access.GRADIENT)
    rows = Rows.first(
        images.inputs(slice(None)),
        Objective(images.labels),
        streams,
        torch.arange(6),
        threat().allowed,
    )
    attack = EOT(attack=PGD(steps=5, restarts=2), average=3)
    found = list(searched(attack, view, iter([rows]), width=6, pad=True))
    assert sum(len(part.index) for part in found) == 6
    # The first attempt looks where its last step led.
    assert view.spent.tolist() == [3 * 11] * 6


@pytest.mark.parametrize("make", [lambda: EOT(attack=PGD(), average=0), lambda: EOT(attack=FMN())])
def test_averages_that_mean_nothing_are_refused(make: Callable[[], EOT]) -> None:
    with pytest.raises(BadInput):
        make()


def test_a_budget_that_an_average_exceeds_is_kept() -> None:
    model, images = Noisy(), digits(4)
    streams = Streams.of(seed=0, ids=images.ids)
    view: Any = grant(Meter(model, streams, width=4, queries=25), Access.GRADIENT)
    attack = EOT(attack=PGD(steps=9), average=10)
    clean = images.inputs(slice(None))
    attack.run(view, clean, Objective(images.labels), threat().allowed, streams=streams)
    assert view.spent.tolist() == [20] * 4


def test_square_by_votes_is_not_taken_in_by_a_lucky_draw() -> None:
    images = tossed(30)
    clean, labels = images.inputs(slice(None)), Objective(images.labels)
    asked = {}
    for votes in (1, 15):
        streams = Streams.of(seed=0, ids=images.ids)
        view: Any = grant(Meter(Coin(0.2), streams, width=30), Access.SCORE)
        ball = LpBall(norm="linf", radius=0.1)
        attack = Square(queries=20, votes=votes)
        attack.run(view, clean, labels, ball, streams=streams)
        assert bool((view.spent % votes == 0).all())
        asked[votes] = float((view.spent / votes).mean())
    # One wrong answer in five comes soon; a majority of them, hardly ever.
    assert asked[1] < 8
    assert asked[15] > 18


def test_votes_stay_within_the_budget() -> None:
    images = digits(4)
    streams = Streams.of(seed=0, ids=images.ids)
    view: Any = grant(Meter(Noisy(), streams, width=4, queries=17), Access.SCORE)
    clean = images.inputs(slice(None))
    ball = LpBall(norm="linf", radius=0.01)
    Square(queries=100, votes=5).run(view, clean, Objective(images.labels), ball, streams=streams)
    assert bool((view.spent <= 15).all())


def test_an_attack_that_cannot_pay_for_a_step_asks_nothing_and_says_so() -> None:
    """Nor is a random model that has no `forward` asked by it, whatever width fits."""
    adversary = dataclasses.replace(threat(), access=Access.SCORE, budget=Budget(queries=4))
    told = {}
    for votes in (4, 5):
        report = evaluate(Noisy(), digits(6), adversary, attacks=[Square(queries=9, votes=votes)])
        told[votes] = [flag.severity for flag in report.flags if flag.id == "asked-nothing"]
        right = report.attacks[0].examples_in
        assert report.attacks[0].forward == (4 * right if votes == 4 else 0)
    assert told == {4: [], 5: ["void"]}


def test_the_head_of_a_report_tells_the_draws(noisy: tuple[Path, EvasionReport]) -> None:
    heads = ["robust_accuracy", "clean_accuracy", "direct", "surrogate", "majority", "all"]
    assert [row[0] for row in words.shares(noisy[1])] == heads

"""Models that mask their gradients: stand-ins, BPDA, warm starts; and ordinary ones."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustkit.attacks import APGD, FGSM, PGD, Square, Stepwise, build
from robustkit.attacks.rows import Rows
from robustkit.errors import BadInput
from robustkit.evaluation import adaptive, plans
from robustkit.evaluation.billing import Aims
from robustkit.evaluation.records import Group, Records
from robustkit.models.cnn import CNN
from robustkit.randomness import Streams
from robustkit.report import EvasionReport, words
from robustkit.threat_models import (
    Access,
    LpBall,
    Meter,
    Objective,
    grant,
)
from robustkit.threat_models.meter import Guide
from tests.evaluation.misleading import (
    Chained,
    Masked,
    N,
    Noisy,
    run,
    ways,
)
from tests.evaluation.victims import digits, network, outcome, threat, victim

pytestmark = pytest.mark.usefixtures("few_draws")


# --- models that mask their gradients ---------------------------------------------------------


@pytest.fixture(scope="module")
def masked() -> EvasionReport:
    return run(Masked())


def test_a_stand_in_sees_through_masked_gradients(masked: EvasionReport) -> None:
    found = masked.accuracies
    assert found.surrogate is not None
    assert found.direct.value > 0.85
    assert found.surrogate.value < found.direct.value - 0.3
    assert found.worst.value <= found.surrogate.value
    assert masked.robust_accuracy == found.worst
    assert masked.verdict.value == found.worst.value
    assert masked.violations == 0


def test_every_gradient_attack_runs_directly_through_stand_in_and_bpda_and_warm(
    masked: EvasionReport,
) -> None:
    ran = [(row.name, row.through) for row in masked.attacks]
    assert ran == [
        ("fgsm", "direct"),
        ("pgd", "direct"),
        ("fgsm", "surrogate:mean"),
        ("pgd", "surrogate:mean"),
        ("fgsm", "bpda"),
        ("pgd", "bpda"),
        ("pgd", "warm"),
    ]
    assert all(row.broken == 0 for row in masked.attacks if row.through == "direct")
    assert "F2" in {flag.id for flag in masked.flags}


def test_without_its_name_the_stand_in_is_not_attacked() -> None:
    report = run(Masked(named=False))
    assert ways(report) == ["direct"]
    assert report.accuracies.surrogate is None
    assert report.accuracies.worst.value > 0.85


def test_bpda_alone_breaks_what_direct_attacks_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_bpda(lines: plans.Plan, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        return [plans.Line(name="pgd", attack=line.attack, through="bpda") for line in lines], []

    monkeypatch.setattr(adaptive, "adapted", only_bpda)
    report = run(Masked(), attacks=[PGD(steps=8, loss="margin")])
    assert ways(report) == ["bpda"]
    assert report.robust_accuracy.value < 0.65


def test_a_model_without_any_graph_is_attacked_through_its_stand_in() -> None:
    report = run(Masked(graph=False))
    assert ways(report) == ["surrogate:mean", "bpda"]
    assert report.robust_accuracy.value < 0.65
    reasons = {one.name: one.reason for one in report.skipped}
    assert "no gradient" in reasons["pgd"]


def test_stand_in_passes_are_counted_and_are_no_queries(masked: EvasionReport) -> None:
    through = {row.through: row for row in masked.attacks if row.name == "pgd"}
    assert through["direct"].forward == through["direct"].queries == through["direct"].backward
    for way in ("surrogate:mean", "bpda"):
        assert through[way].forward == 2 * through[way].queries
        assert through[way].backward == through[way].queries
    warm = through["warm"]
    # So many steps through the stand-in as on the model itself, unless it wins.
    assert warm.queries < warm.forward <= 1.5 * warm.queries + 1


def test_the_accuracy_under_stand_ins_is_over_all_examples(model: CNN) -> None:
    class Open(nn.Module):
        """Hides nothing, and names itself."""

        stochastic = False

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, inputs: Tensor) -> Tensor:
            logits: Tensor = self.model(inputs)
            return logits

        def surrogates(self) -> dict[str, nn.Module]:
            return {"itself": self.model}

    nearest = build("apgd", {"ranking": "nearest", "targets": "3", "steps": "20", "loss": "margin"})
    plain, report = run(model, attacks=[FGSM(), nearest]), run(Open(), attacks=[FGSM(), nearest])
    assert report.accuracies.direct.value <= plain.robust_accuracy.value
    assert report.accuracies.surrogate == pytest.approx(report.accuracies.direct, abs=0.1)
    assert report.accuracies.surrogate is not None
    assert report.accuracies.surrogate.value < report.clean_accuracy.value
    assert "F2" not in {flag.id for flag in report.flags}
    # An example counts for the attack that broke it first.
    right = round(report.clean_accuracy.value * N)
    stand = round(report.robust_accuracy.value * N)
    assert sum(row.broken for row in report.attacks) == right - stand


def test_transfer_succeeds_only_where_the_model_itself_is_fooled() -> None:
    masked, images = Masked(), digits(8)
    streams = Streams.of(seed=0, ids=images.ids)
    meter = Meter(masked, streams, width=8)
    meter.guide = Guide(masked.mean)
    inputs = images.inputs(slice(None)).requires_grad_()
    output = meter.ask(inputs, torch.arange(8))
    assert torch.equal(output.logits, masked(inputs.detach()))
    assert torch.equal(output.guidance.detach(), masked.mean(inputs.detach()))
    assert not output.logits.requires_grad
    assert meter.ledger.passes.forward == 16
    assert meter.ledger.forward.tolist() == [1] * 8
    (slope,) = torch.autograd.grad(output.guidance.sum(), inputs)
    assert bool(slope.any())
    assert meter.ledger.passes.backward == 8
    with meter.guided(Guide(masked.mean, straight_through=True)):
        straight = meter.ask(inputs, torch.arange(8))
    assert torch.allclose(straight.guidance.detach(), output.logits, atol=1e-5)
    (same,) = torch.autograd.grad(straight.guidance.sum(), inputs)
    assert torch.allclose(same, slope)


def test_a_search_ends_where_the_model_is_fooled_and_not_the_stand_in() -> None:
    class Brightness(nn.Module):
        """Answers 1 where the mean of the image exceeds `at`."""

        def __init__(self, at: float) -> None:
            super().__init__()
            self.at = at

        def forward(self, inputs: Tensor) -> Tensor:
            lead = inputs.flatten(1).mean(1) - self.at
            return torch.stack([-lead, lead], dim=1)

    clean, labels = torch.zeros(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64)
    streams = Streams.of(seed=0, ids=torch.arange(2))
    meter = Meter(Brightness(0.65), streams, width=2)
    view: Any = grant(meter, Access.GRADIENT)
    attack = PGD(steps=10, step_size=0.1, random_start=False)
    with meter.guided(Guide(Brightness(0.25))):
        ball = LpBall(norm="linf", radius=1.0)
        points = attack.run(view, clean, Objective(labels), ball, streams=streams)
    assert torch.allclose(points, torch.full_like(clean, 0.7))
    # At the start and after each of seven steps.
    assert view.spent.tolist() == [8, 8]


def test_the_nearest_classes_of_a_stand_in_are_its_own() -> None:
    nearest = build("apgd", {"ranking": "nearest", "targets": "2", "steps": "5", "loss": "margin"})
    report = run(Masked(), attacks=["fgsm", nearest])
    assert report.accuracies.direct.value > 0.85
    assert report.robust_accuracy.value < 0.65


def test_nearest_classes_are_remembered_by_whose_gradients_found_them() -> None:
    records = Records(None, {})
    for through in ("direct", "surrogate:one"):
        row = 0 if through == "direct" else 1
        group = Group(
            stage=row, rows=[row], labels=[0], aims=[[3]], through=through,
            forward=1, rows_run=1, seconds=0.0,
        )  # fmt: skip
        records.add(group)
    everyone = torch.arange(2)
    for through in ("direct", "eot", "warm"):
        assert Aims(records, 2, through).known(everyone).tolist() == [True, False]
    assert Aims(records, 2, "surrogate:one").known(everyone).tolist() == [False, True]
    for through in ("surrogate:two", "bpda"):
        assert Aims(records, 2, through).known(everyone).tolist() == [False, False]


# --- warm starts ------------------------------------------------------------------------------


def test_a_start_from_elsewhere_is_brought_into_the_set_around_the_clean_image() -> None:
    ball = LpBall(norm="linf", radius=0.1)
    clean = torch.full((2, 1, 2, 2), 0.5)
    rows = Rows.first(
        clean,
        Objective(torch.zeros(2, dtype=torch.int64)),
        Streams.of(seed=0, ids=torch.arange(2)),
        torch.arange(2),
        ball,
    )
    far = Rows(**{**_fields(rows), "start": torch.ones_like(clean)})
    attacks: list[Stepwise[Any]] = [PGD(), PGD(random_start=False), APGD()]
    for attack in attacks:
        begun = attack.propose(attack.begin(far))
        assert torch.allclose(begun, torch.full_like(clean, 0.6))
        again = attack.propose(attack.begin(far.next_attempt()))
        assert not torch.allclose(again, begun)
    assert torch.equal(PGD(random_start=False).begin(rows).point, clean)


def _fields(rows: Rows) -> dict[str, Any]:
    return {name: getattr(rows, name) for name in Rows.__slots__}


def test_a_warm_start_goes_on_from_where_the_stand_in_led() -> None:
    model = Masked()
    report = run(model, attacks=[PGD(steps=8, loss="margin")])
    (warm,) = [row for row in report.attacks if row.through == "warm"]
    # Its gradient is zero: what it breaks, the run-up has broken, with success seen at once.
    assert warm.examples_in > 0
    assert warm.backward > 8 * warm.examples_in
    assert report.violations == 0


def test_a_chain_that_projects_around_the_changed_image_is_a_violation(model: CNN) -> None:
    chain = run(model, attacks=[Chained()])
    once = run(model, attacks=[Chained(rounds=1)])
    assert once.violations == 0
    assert chain.violations > N // 2
    # What lies outside breaks nothing, however wrong the model is about it.
    assert chain.robust_accuracy.value >= once.robust_accuracy.value
    assert chain.attacks[0].broken <= once.attacks[0].broken
    assert "F6" in {flag.id for flag in chain.flags}


def test_a_masked_run_is_resumed_and_never_taken_for_another(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    expected = run(Masked(), out=folder)
    content = (folder / "records.jsonl").read_bytes()
    ends = [at + 1 for at, byte in enumerate(content) if byte == ord("\n")]
    for number in range(3, len(ends), 4):
        copy = tmp_path / str(number)
        copy.mkdir()
        for name in ("run.json", "points.bin"):
            shutil.copy(folder / name, copy / name)
        (copy / "records.jsonl").write_bytes(content[: ends[number]])
        assert outcome(run(Masked(), out=copy, resume=True)) == outcome(expected)
    with pytest.raises(BadInput, match="another run"):
        run(Masked(named=False), out=folder, resume=True)
    ways_run = {
        line["through"] for line in json.loads((folder / "run.json").read_text())["attacks"]
    }
    assert ways_run == {"direct", "surrogate:mean", "bpda", "warm"}


# --- Square ----------------------------------------------------------------------------------


def test_a_plan_ends_with_square_for_models_that_mislead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adaptive, "_QUERIES", 10)
    monkeypatch.setattr(adaptive, "RUNGS", (2,))
    monkeypatch.setattr(plans, "PLANS", {"short": (("pgd", {"steps": "5"}, None),)})
    report = run(Masked(), attacks=None, plan="short", data=digits(4))
    assert (report.attacks[-1].name, report.attacks[-1].through) == ("square", "direct")
    assert report.attacks[-1].options["queries"] == 10
    assert report.attacks[-1].options["votes"] == 1
    assert "square" not in {one.name for one in report.skipped}
    random = run(Noisy(), attacks=None, plan="short", data=digits(1))
    assert random.attacks[-1].options["votes"] == 5
    assert random.attacks[-1].queries % 5 == 0


def test_square_asks_five_thousand_questions_and_stands_once_at_the_end() -> None:
    lines = plans.plan("thorough", threat())
    found, left_out = adaptive.adapted(
        lines, Masked(), ("mean",), threat(), differentiable=True, ends=True
    )
    assert not left_out
    assert [line.name for line in found].count("square") == 1
    last = found[-1].attack
    assert isinstance(last, Square)
    assert last.queries == 5000
    assert all(line.lead_left is None for line in found if line.through != "direct")


# --- ordinary models --------------------------------------------------------------------------


def test_an_ordinary_model_costs_what_it_cost(model: CNN) -> None:
    lines = plans.plan("standard", threat())
    same, left_out = adaptive.adapted(lines, model, (), threat(), differentiable=True, ends=True)
    assert same == lines
    assert not left_out
    report = run(model)
    searched, tried = (
        sum(getattr(row, name) for row in report.attacks) for name in ("forward", "examples_in")
    )
    # One clean pass, the searches, and one pass to judge what each hands back.
    assert report.cost.forward == N + searched + tried
    assert report.attacks[0].forward == 0
    assert all(row.through == "direct" for row in report.attacks)
    assert report.draws is None
    assert report.accuracies.surrogate is None
    assert report.accuracies.direct == report.accuracies.worst == report.robust_accuracy


def test_a_model_that_names_no_stand_ins_is_an_ordinary_one(model: CNN) -> None:
    class Nothing(CNN):
        def surrogates(self) -> dict[str, nn.Module]:
            return {}

    named = Nothing(classes=10, channels=1, width=8, seed=0)
    named.load_state_dict(model.state_dict())
    found, expected = outcome(run(named.eval())), outcome(run(model))
    assert {**found, "facts": None} == {**expected, "facts": None}


@pytest.mark.parametrize("stand_in", ["mean", network])
def test_what_is_no_stand_in_is_refused(stand_in: object) -> None:
    model = Masked()
    model.surrogates = lambda: {"mean": stand_in}  # type: ignore[method-assign,dict-item]
    with pytest.raises(BadInput, match="stand-in 'mean'"):
        run(model)


def test_stand_ins_are_held_still_and_given_back_as_they_were() -> None:
    model, apart = Masked(), victim().train()
    moving = []
    apart.register_forward_hook(
        lambda module, *_: moving.append(
            module.training or any(p.requires_grad for p in module.parameters())
        )
    )
    model.surrogates = lambda: {"apart": apart}  # type: ignore[method-assign]
    run(model, attacks=[FGSM()], data=digits(4))
    assert moving
    assert not any(moving)
    assert apart.training
    assert all(parameter.requires_grad for parameter in apart.parameters())


def test_what_stands_at_the_head_of_a_report(masked: EvasionReport, model: CNN) -> None:
    common = ["robust_accuracy", "clean_accuracy"]
    ways = ["direct", "surrogate"]
    assert [row[0] for row in words.shares(run(model, attacks=[FGSM()]))] == common
    assert [row[0] for row in words.shares(masked)] == [*common, *ways]
    assert words.shares(masked)[2][1] == masked.accuracies.direct.value

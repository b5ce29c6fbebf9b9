"""Models that mislead attacks: stand-ins, BPDA, warm starts, averages over draws, votes."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from robustkit import evaluate
from robustkit.attacks import APGD, FGSM, FMN, PGD, EvasionAttack, Square, Stepwise, build
from robustkit.attacks._eot import EOT
from robustkit.attacks.rows import Rows
from robustkit.attacks.stepwise import feed, search
from robustkit.data import LabelledImages
from robustkit.errors import BadInput
from robustkit.evaluation import adaptive, draws, evasion, plans
from robustkit.evaluation.billing import Aims
from robustkit.evaluation.draws import DRAWS, mean_share, summed_up
from robustkit.evaluation.flags_diagnosis import Diagnosis
from robustkit.evaluation.plans import Line
from robustkit.evaluation.records import Group, Records
from robustkit.models.cnn import CNN
from robustkit.randomness import Streams
from robustkit.report import EvasionReport, words
from robustkit.statistics import wilson
from robustkit.threat_models import (
    Access,
    Gradients,
    LpBall,
    Meter,
    Objective,
    Output,
    PerturbationSet,
    ThreatModel,
    grant,
    parse_goal,
)
from robustkit.threat_models.meter import Guide
from tests.evaluation.victims import digits, network, outcome, threat, victim

N, WIDTH = 24, 8
GRADIENT = (FGSM(), PGD(steps=8, loss="margin"))
# Random models: fewer of everything, since every answer is asked for a hundred times.
FEW, STEPS = 12, 3
SHORT = (FGSM(), PGD(steps=STEPS, loss="margin"))


RUNGS = draws.RUNGS


@pytest.fixture(scope="module", autouse=True)
def _short() -> Iterator[None]:
    """Averages over few draws; what the flags measure after a run is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evasion, "diagnose", lambda *_, **__: Diagnosis())
        patch.setattr(adaptive, "RUNGS", (4, 6, 20))
        patch.setattr(draws, "RUNGS", (4, 6, 20))
        yield


class Mean(nn.Module):
    """The mean logits of several networks."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.stack([member(inputs) for member in self.members]).mean(0)


class Masked(nn.Module):
    """Three networks; rounded logits, so that gradients are exactly zero; names their mean."""

    stochastic = False

    def __init__(self, *, graph: bool = True, named: bool = True) -> None:
        super().__init__()
        self.mean = Mean([victim(), _noisy_copy(1), _noisy_copy(2)])
        self.graph, self.named = graph, named
        self.eval()

    def answer(self, inputs: Tensor, *, streams: Streams | None = None) -> Output:
        return Output(self(inputs))

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.mean(inputs)
        rounded = (4 * logits).round()
        return rounded if self.graph else rounded.detach()

    def surrogates(self) -> dict[str, nn.Module]:
        return {"mean": self.mean} if self.named else {}


def _noisy_copy(seed: int) -> CNN:
    copy = victim()
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=source))
    return copy


class Noisy(nn.Module):
    """Sees its input through noise, anew for each question."""

    stochastic = True

    def __init__(self, spread: float = 0.3, surrogate: nn.Module | None = None) -> None:
        super().__init__()
        self.model = victim()
        self.spread = spread
        self.surrogate = surrogate
        self.asked = 0
        self.eval()

    def answer(self, inputs: Tensor, *, streams: Streams | None = None) -> Output:
        assert streams is not None
        self.asked += len(inputs)
        noise = self.spread * streams.normal(tuple(inputs.shape[1:]))
        return Output(self.model(inputs + noise))

    def forward(self, inputs: Tensor) -> Tensor:
        raise AssertionError

    def surrogates(self) -> dict[str, nn.Module]:
        return {} if self.surrogate is None else {"network": self.surrogate}


def run(model: nn.Module, **changes: Any) -> EvasionReport:  # noqa: ANN401
    arguments: dict[str, Any] = {
        "data": digits(N),
        "threat": threat(),
        "attacks": GRADIENT,
        "batch_size": WIDTH,
        **changes,
    }
    return evaluate(model, **arguments)


def ways(report: EvasionReport) -> list[str]:
    return list(dict.fromkeys(row.through for row in report.attacks))


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


@dataclass(frozen=True, kw_only=True)
class Chained(EvasionAttack[Gradients]):
    """Rounds of PGD, each around the result of the one before: out of the set in the end."""

    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"linf"})

    rounds: int = 4

    def run(
        self,
        view: Gradients,
        inputs: Tensor,
        objective: Objective,
        allowed: PerturbationSet,
        *,
        streams: Streams,
    ) -> Tensor:
        changed = inputs
        attack = PGD(steps=3, step_size=1.0, loss="margin")
        for _ in range(self.rounds):
            changed = attack.run(view, changed, objective, allowed, streams=streams)
        return changed


def test_a_chain_that_projects_around_the_changed_image_is_a_violation(model: CNN) -> None:
    chain = run(model, attacks=[Chained()])
    once = run(model, attacks=[Chained(rounds=1)])
    assert once.violations == 0
    assert chain.violations > N // 2
    # What lies outside breaks nothing, however wrong the model is about it.
    assert chain.robust_accuracy.value >= once.robust_accuracy.value
    assert chain.attacks[0].broken <= once.attacks[0].broken
    assert "F6" in {flag.id for flag in chain.flags}


# --- models that answer at random -------------------------------------------------------------


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


def test_judging_by_draws_is_part_of_the_cost() -> None:
    report = run(Noisy(), attacks=[PGD(steps=1)])
    searched = sum(row.forward for row in report.attacks)
    judged = sum(row.examples_in for row in report.attacks)
    # The clean pass, 20 draws for choosing and 20 fresh ones of the clean images, and of what was
    # handed back at least 20.
    assert report.cost.forward >= N + 2 * DRAWS * N + searched + judged + DRAWS * judged
    assert report.cost.forward <= N + 2 * DRAWS * N + searched + judged + 2 * DRAWS * judged
    assert report.cost.rows_run >= report.cost.forward


class Coin(nn.Module):
    """Answers 0, and 1 for so many of its draws, whatever it sees; every point has its own luck."""

    stochastic = True

    def __init__(self, wrong: float) -> None:
        super().__init__()
        self.wrong = wrong
        self.eval()

    def answer(self, inputs: Tensor, *, streams: Streams | None = None) -> Output:
        assert streams is not None
        luck = inputs.flatten(1).sum(1).detach() * 1000
        toss = (streams.uniform(()) + luck) % 1
        lead = torch.where(toss < self.wrong, 1.0, -1.0) + 0 * inputs.flatten(1).sum(1)
        return Output(torch.stack([-lead, lead], dim=1))


def tossed(n: int) -> LabelledImages:
    images = Streams.of(seed=0, ids=torch.arange(n)).uniform((1, 2, 2))
    return LabelledImages.from_tensors(images, torch.zeros(n, dtype=torch.int64))


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
    found = summed_up(torch.tensor([DRAWS, DRAWS - 1, DRAWS // 2 + 1, DRAWS // 2, 0]))
    assert (found.majority.value, found.all.value) == (0.6, 0.2)


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
    found = list(search(attack, view, feed(attack, view, iter([rows])), width=6, pad=True))
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


# --- Square ----------------------------------------------------------------------------------


def test_a_plan_ends_with_square_for_models_that_mislead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adaptive, "_QUERIES", 10)
    report = run(Masked(), attacks=None, plan="fast", data=digits(4))
    assert (report.attacks[-1].name, report.attacks[-1].through) == ("square", "direct")
    assert report.attacks[-1].options["queries"] == 10
    assert report.attacks[-1].options["votes"] == 1
    assert "square" not in {one.name for one in report.skipped}
    random = run(Noisy(), attacks=None, plan="fast", data=digits(2))
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


def test_what_stands_at_the_head_of_a_report(
    masked: EvasionReport, noisy: tuple[Path, EvasionReport], model: CNN
) -> None:
    common = ["robust_accuracy", "clean_accuracy"]
    ways = ["direct", "surrogate"]
    assert [row[0] for row in words.shares(run(model, attacks=[FGSM()]))] == common
    assert [row[0] for row in words.shares(masked)] == [*common, *ways]
    assert [row[0] for row in words.shares(noisy[1])] == [*common, *ways, "majority", "all"]
    assert words.shares(masked)[2][1] == masked.accuracies.direct.value

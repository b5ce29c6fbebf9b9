"""Sanity flags: each is raised by a model or a run that deserves it, and by no sound one."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustkit import evaluate
from robustkit.attacks import FGSM, PGD, Square
from robustkit.data import LabelledImages
from robustkit.models.cnn import CNN
from robustkit.randomness import Streams
from robustkit.report import EvasionReport, read
from robustkit.threat_models import Budget, LpBall, Output, ThreatModel, parse_goal
from tests.evaluation.cheats import Cheat
from tests.evaluation.victims import RADII, Counting, digits, outcome, threat


class Altered(nn.Module):
    """A model whose inputs, logits or both go through a function."""

    def __init__(
        self,
        model: nn.Module,
        *,
        before: Callable[[Tensor], Tensor] = lambda inputs: inputs,
        after: Callable[[Tensor], Tensor] = lambda logits: logits,
    ) -> None:
        super().__init__()
        self.model, self.before, self.after = model, before, after
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.after(self.model(self.before(inputs)))


def rippled(inputs: Tensor) -> Tensor:
    """Digits have sixteenths as values: there the slope is right, and half way between reversed."""
    return inputs + torch.sin(2 * math.pi * 16 * inputs) / (math.pi * 16)


def terraced(inputs: Tensor) -> Tensor:
    """Rises in steps, and falls a little on each: no slope points where the values go."""
    whole = (16 * inputs).floor()
    return whole / 16 + (1 - (16 * inputs - whole)) / 32


def rounded(inputs: Tensor) -> Tensor:
    """Eighths, without a slope."""
    return (8 * inputs).round() / 8 + 0 * inputs


def sin_of(model: nn.Module) -> nn.Module:
    return Altered(model, before=rippled)


def report_on(model: nn.Module, n: int = 24, **arguments: Any) -> EvasionReport:  # noqa: ANN401
    return evaluate(model, digits(n), threat(), **{"plan": "fast", **arguments})


def severities(report: EvasionReport) -> dict[str, str]:
    return {flag.id: flag.severity for flag in report.flags}


def message(report: EvasionReport, name: str) -> str:
    (found,) = (flag.message for flag in report.flags if flag.id == name)
    return found


def spent(report: EvasionReport) -> tuple[int, int]:
    """Passes of the evaluation, and of everything beside it."""
    tables: Any = report.diagnostics
    beside = sum(tables[name][kind] for name in tables for kind in ("forward", "backward"))
    return report.cost.forward + report.cost.backward, beside


def measured(report: EvasionReport) -> dict[str, Any]:
    table: Any = report.diagnostics["flags"]
    return {row["flag"]: row for row in table["measurements"]}


@pytest.mark.parametrize(
    ("norm", "plan"),
    [
        *((norm, "fast") for norm in RADII),
        ("linf", "standard"),
        *(pytest.param(norm, "standard", marks=pytest.mark.slow) for norm in ("l2", "l1")),
    ],
)
def test_a_sound_model_raises_none_but_few_examples(norm: str, plan: str, model: CNN) -> None:
    report = evaluate(model, digits(40), threat(norm), plan=plan)
    assert severities(report) == {"F11": "info"}
    rows = measured(report)
    left_out = {name for name, row in rows.items() if not row["examples"]}
    assert left_out <= ({"F5"} if norm == "l1" else set())
    cost, beside = spent(report)
    assert 0 < beside < cost


def test_the_default_run_raises_none_but_few_examples() -> None:
    report = evaluate(batch_size=20)
    assert severities(report) == {"F11": "info"}
    cost, beside = spent(report)
    assert beside < cost
    assert all("no example stands" in row["measured"] for row in measured(report).values())


@pytest.mark.parametrize("n", [1, 3, 8])
@pytest.mark.parametrize("attacks", [None, [FGSM()], [PGD(steps=5)]])
def test_tiny_runs_spend_less_on_flags_than_on_attacks(
    n: int, attacks: list[Any] | None, model: CNN
) -> None:
    report = evaluate(model, digits(n), threat(), attacks=attacks)
    cost, beside = spent(report)
    guards: Any = report.diagnostics["guards"]
    assert beside <= max(cost, guards["forward"] + guards["backward"])


def test_random_answers_raise_f1(model: CNN) -> None:
    noisy = Altered(model, after=lambda logits: logits + 1e-3 * torch.randn_like(logits))
    report = report_on(noisy, 8, attacks=[FGSM()])
    assert severities(report)["F1"] == "unlisted"
    assert "5 identical calls gave different logits for 8 of 8" in message(report, "F1")


def test_a_model_that_changes_its_mind_late_raises_f1(model: CNN) -> None:
    class Moody(nn.Module):
        calls = 0

        def forward(self, inputs: Tensor) -> Tensor:
            self.calls += len(inputs) > 1
            logits: Tensor = model(inputs)
            return logits + (self.calls == 4)

    report = report_on(Moody().eval(), 8, attacks=[FGSM()])
    assert "different logits for 4 of 8" in message(report, "F1")
    assert not report.environment.reproducible


def test_gradients_that_are_zero_raise_f3(model: CNN) -> None:
    report = report_on(Altered(model, before=rounded))
    assert severities(report)["F3"] == "void"
    standing = sum(example.status == "robust" for example in report.examples)
    assert f"{standing} clean images that stand" in message(report, "F3")
    dead = measured(report)["F3,F4"]["values"]
    assert dead["top_logit_dead"] == dead["loss_dead"] > 0


def test_a_slope_that_only_the_cross_entropy_has_lost_raises_no_f3() -> None:
    images = torch.linspace(0.15, 0.75, 24).reshape(-1, 1, 1, 1), torch.zeros(24, dtype=torch.int64)
    steep = Altered(brightness(), after=lambda logits: 1e4 * logits)
    report = evaluate(steep, images, LOW, attacks=[PGD(steps=8, loss="margin")])
    assert 0 < report.robust_accuracy.value < 1
    assert set(severities(report)) == {"F11", "saturated-logits"}


def test_examples_that_fall_all_the_same_raise_no_f3() -> None:
    # The darker half is blind at first, and falls to random starts.
    flat = Altered(brightness(), before=lambda inputs: torch.where(inputs == 0.2, 0.2, inputs))
    images = torch.tensor([0.2, 0.8]).repeat(12).reshape(-1, 1, 1, 1)
    data = images, torch.zeros(24, dtype=torch.int64)
    report = evaluate(flat, data, LOW, attacks=[PGD(steps=8, restarts=20)])
    assert report.robust_accuracy.value == 0.5
    assert "F3" not in severities(report)
    assert "F3" in severities(evaluate(flat, data, LOW, attacks=[FGSM()]))


def test_ties_raise_f4(model: CNN) -> None:
    clipped = Altered(model, after=lambda logits: logits.clamp(max=1.0))
    report = report_on(clipped)
    assert severities(report)["F4"] == "void"


def test_square_raises_f5_where_gradients_mislead(model: CNN) -> None:
    report = report_on(Altered(model, before=terraced))
    found = severities(report)
    assert found["F5"] == "void"
    assert found["F8"] == found["loss-not-rising"] == "warn"
    assert "Square broke" in message(report, "F5")
    assert "chance is 10%" in message(report, "F8")
    values = measured(report)["F5"]
    assert values["values"]["broken"] > values["examples"] / 2


def test_a_cheat_raises_f6(model: CNN) -> None:
    report = report_on(model, 8, attacks=[Cheat(way="outside")])
    assert severities(report)["F6"] == "unlisted"


def test_too_few_steps_raise_f7(model: CNN) -> None:
    weak = PGD(steps=4, step_size=0.1, random_start=False)
    report = report_on(model, 100, attacks=[weak])
    assert severities(report)["F7"] == "warn"
    assert "pgd with 8 steps instead of 4" in message(report, "F7")
    strong = report_on(model, 200, plan="standard")
    assert "F7" not in severities(strong)
    assert measured(strong)["F7"]["examples"] > 4


def test_what_cannot_be_measured_is_null(tmp_path: Path) -> None:
    certain = Altered(brightness(), after=lambda logits: logits + torch.tensor([torch.inf, 0.0]))
    images = torch.full((12, 1, 1, 1), 0.5), torch.zeros(12, dtype=torch.int64)
    arguments: dict[str, Any] = {"attacks": [PGD(steps=40)], "out": tmp_path / "run"}
    for resume in (False, True):
        report = evaluate(certain, images, LOW, resume=resume, **arguments)
        assert measured(report)["loss-not-rising,step-size"]["values"]["half"] is None
        assert "step-size" not in severities(report)
    assert read(tmp_path / "run" / "report.json") == report


def test_a_radius_of_zero_raises_nothing() -> None:
    images = torch.full((12, 1, 1, 1), 0.5), torch.zeros(12, dtype=torch.int64)
    report = evaluate(brightness(), images, LOW.with_radius(0), attacks=[PGD(steps=40)])
    assert set(severities(report)) == {"F11"}


def test_reversed_slopes_raise_f9_and_the_step_size_flag(model: CNN) -> None:
    found = severities(report_on(sin_of(model)))
    assert found["F9"] == found["step-size"] == "warn"
    # The other way round: steps that stay where they are, then one large one.
    few = PGD(steps=10, step_size=1e-3, random_start=False)
    report = report_on(model, 24, attacks=[few])
    assert "FGSM broke" in message(report, "F9")


def test_large_logits_raise_the_saturation_flag(model: CNN) -> None:
    report = report_on(Altered(model, after=lambda logits: 30 * logits))
    assert severities(report)["saturated-logits"] == "warn"


def test_a_model_that_names_a_stand_in_raises_f2_if_that_gives_it_away(model: CNN) -> None:
    class Masked(Altered):
        def surrogates(self) -> dict[str, nn.Module]:
            return {"plain": model}

    pgd = PGD(steps=10, loss="margin")
    report = report_on(Masked(model, before=terraced), 12, attacks=[pgd])
    assert severities(report)["F2"] == "void"
    assert "through surrogate:plain" in message(report, "F2")
    assert report.accuracies.direct.value > 0.8 > 0.6 > report.accuracies.worst.value
    # One that hides nothing names a stand-in as well.
    assert "F2" not in severities(report_on(Masked(model), 12, attacks=[pgd]))


def test_a_random_model_is_measured_by_most_of_its_draws(
    model: CNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("adaptive", "draws"):
        monkeypatch.setattr(f"robustkit.evaluation.{module}.RUNGS", (4, 6))

    class Noisy(nn.Module):
        stochastic = True

        def answer(self, inputs: Tensor, *, streams: Streams | None = None) -> Output:
            assert streams is not None
            return Output(model(inputs) + 0.3 * streams.normal((10,)))

        def forward(self, inputs: Tensor) -> Tensor:
            raise AssertionError

    attacks = [PGD(steps=20, loss="margin")]
    report = evaluate(Noisy(), digits(8), threat(), attacks=attacks, batch_size=8)
    assert set(severities(report)) == {"F1", "F11"}
    rows = measured(report)
    assert rows["F8"]["values"]["broken"] == rows["F8"]["examples"] > 0
    # Averages over draws take steps as well, and more than one.
    assert rows["F9"]["measured"].startswith("FGSM on the ")
    assert rows["F7"]["measured"].startswith("pgd with 40 steps instead of 20 on the ")
    cost, beside = spent(report)
    assert beside < cost


LOW = ThreatModel(name="low", perturbation=LpBall(norm="linf", radius=0.3))


def brightness() -> nn.Sequential:
    """Class 0 where the one value is above 0.1."""
    layer = nn.Linear(1, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0], [0.0]]))
        layer.bias.copy_(torch.tensor([-0.1, 0.0]))
    return nn.Sequential(nn.Flatten(), layer)


@pytest.mark.parametrize(("queries", "compared"), [(4, False), (200, True)])
def test_the_budget_of_the_adversary_is_not_that_of_the_flags(queries: int, compared: bool) -> None:
    adversary = ThreatModel(
        name="few questions",
        perturbation=LpBall(norm="linf", radius=0.05),
        budget=Budget(queries=queries),
    )
    images = torch.full((60, 1, 1, 1), 0.45), torch.zeros(60, dtype=torch.int64)
    report = evaluate(brightness(), images, adversary, attacks=[PGD(steps=20)])
    assert set(severities(report)) == {"F11"}
    rows = measured(report)
    assert rows["F8"]["values"]["broken"] == rows["F8"]["examples"] > 0
    # What gradient attacks could do in 4 questions says nothing beside Square's 100.
    assert all(bool(rows[name]["examples"]) == compared for name in ("F5", "F7", "F9"))
    assert ("the attacks had 4 queries" in rows["F5"]["measured"]) != compared


def test_one_step_is_not_compared_with_attacks_that_make_none() -> None:
    images = torch.full((60, 1, 1, 1), 0.45), torch.zeros(60, dtype=torch.int64)
    report = evaluate(brightness(), images, threat(), attacks=[Square(queries=2)])
    assert measured(report)["F9"]["measured"].endswith("no attack with gradients was run.")
    assert "F9" not in severities(report)


@pytest.mark.parametrize("goal", ["targeted:second", "targeted"])
def test_targeted_goals_are_measured_as_far_as_they_can(goal: str, model: CNN) -> None:
    adversary = ThreatModel(
        name="targeted", goal=parse_goal(goal), perturbation=threat().perturbation
    )
    report = evaluate(model, digits(24), adversary, plan="fast")
    assert severities(report) == {"F11": "info"}
    rows = measured(report)
    assert "untargeted goals" in rows["F8"]["measured"]
    assert rows["F5"]["examples"] > 0


def test_decision_attacks_are_not_measured_by_gradients(model: CNN) -> None:
    from robustkit.threat_models import Access, Budget

    adversary = ThreatModel(
        name="labels",
        access=Access.DECISION,
        perturbation=threat().perturbation,
        budget=Budget(queries=40),
    )
    report = evaluate(model, digits(6), adversary)
    assert set(severities(report)) == {"F11"}
    assert all("sees no gradients" in row["measured"] for row in measured(report).values())


def shuffled(images: LabelledImages) -> LabelledImages:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(3))
    return images.take(order)


def test_measurements_do_not_depend_on_the_order_of_the_examples(model: CNN) -> None:
    there = evaluate(model, digits(24), threat(), plan="fast", batch_size=8)
    back = evaluate(model, shuffled(digits(24)), threat(), plan="fast", batch_size=8)
    assert measured(there) == measured(back)


def test_a_resumed_run_has_the_same_flags_and_measures_them_once(
    model: CNN, tmp_path: Path
) -> None:
    misleading = Altered(model, before=terraced)
    folder = tmp_path / "run"
    arguments: dict[str, Any] = {"plan": "fast", "batch_size": 8, "out": folder}
    counting = Counting(misleading)
    first = report_on(counting, 12, **arguments)
    assert "F5" in severities(first)
    kept = folder / "diagnostics.json"
    table = first.diagnostics["flags"]

    asked = counting.count.rows
    again = report_on(counting, 12, resume=True, **arguments)
    assert outcome(again)["flags"] == outcome(first)["flags"]
    assert again.diagnostics["flags"] == table
    guards: Any = again.diagnostics["guards"]
    assert counting.count.rows - asked < 3 * guards["forward"] < asked

    # Stopped before they were written, or damaged afterwards: measured again, to the same end.
    for content in (None, b"", b"{", b'{"flags": [], "measurements": 3}'):
        kept.unlink()
        if content is not None:
            kept.write_bytes(content)
        other = report_on(counting, 12, resume=True, **arguments)
        assert other.flags == first.flags
        assert other.diagnostics["flags"] == table
        assert json.loads(kept.read_text())["measurements"]

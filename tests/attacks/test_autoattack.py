"""pyautoattack through the view: the same verdicts, counted, limited and without side effects."""

import copy
import logging
import sys
from types import FrameType
from typing import Any

import pyautoattack
import pytest
import torch
from torch import Tensor, nn

from robustkit import data, models
from robustkit.attacks.autoattack import AutoAttack
from robustkit.errors import BadInput
from robustkit.threat_models import (
    Access,
    LpBall,
    Objective,
    Targeted,
    ThreatModel,
    Verdict,
    grant,
)
from robustkit.threat_models.model import Budget
from tests.attacks.conftest import Counting, Victims

NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def linf(radius: float, *, queries: int | None = None) -> ThreatModel:
    return ThreatModel(
        name="test",
        perturbation=LpBall(norm="linf", radius=radius),
        budget=Budget(queries=queries),
    )


def against(
    attack: AutoAttack, threat: ThreatModel, victims: Victims, model: nn.Module | None = None
) -> tuple[Tensor, Verdict]:
    """The attack's points and the verdict on them."""
    view = threat.view(model or victims.model, victims.streams)
    points = attack.run(
        view,  # type: ignore[arg-type]
        victims.inputs,
        victims.objective,
        threat.allowed,
        streams=victims.streams,
    )
    verdict = threat.judge(victims.model, victims.inputs, points, victims.objective, view.spent)
    return points, verdict


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps, so that a test of the frame around the attacks takes no time."""
    original = pyautoattack.AutoAttack._set_version

    def shortened(self: Any, version: str) -> None:  # noqa: ANN401
        original(self, version)
        for part in (self.apgd, self.apgd_targeted):
            part.n_iter = part.n_iter_orig = 10
            part.n_iter_2, part.n_iter_min, part.size_decr = 2, 1, 1
        self.apgd.eot_iter = min(self.apgd.eot_iter, 2)
        self.fab.n_iter = 5
        self.square.n_queries = 50

    monkeypatch.setattr(pyautoattack.AutoAttack, "_set_version", shortened)


def directly(victims: Victims, threat: ThreatModel, version: str = "standard") -> Tensor:
    """The package without robustkit, on a copy of the model, seeded as the adapter seeds it."""
    seed = int(victims.streams.take([0]).fork("foreign").integers(2**31 - 1))
    with torch.random.fork_rng(devices=[]):
        tracer = sys.gettrace()
        attack = pyautoattack.AutoAttack(
            copy.deepcopy(victims.model),
            norm=NORMS[threat.allowed.norm],
            eps=threat.allowed.radius,
            seed=seed,
            version=version,
        )
        points, _ = attack.run_standard_evaluation(
            victims.inputs, victims.labels, batch_size=len(victims.ids)
        )
        sys.settrace(tracer)
    result: Tensor = points
    return result


@pytest.mark.slow
def test_the_standard_version_gives_the_packages_verdicts(digits: Victims) -> None:
    few = digits.first(4)
    threat = linf(0.12)
    expected = directly(few, threat)
    points, verdict = against(AutoAttack(), threat, few)
    assert torch.equal(points, expected)
    # A constant verdict would prove nothing.
    assert 0 < int(verdict.achieved.sum()) < 4
    assert bool(verdict.allowed.all())


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.15), ("l2", 1.0), ("l1", 4.0)])
def test_every_version_in_every_norm(
    digits: Victims, version: str, norm: str, radius: float
) -> None:
    few = digits.first(6)
    threat = ThreatModel(
        name="t",
        perturbation=LpBall(norm=norm, radius=radius),  # type: ignore[arg-type]
    )
    expected = directly(few, threat, version)
    points, verdict = against(AutoAttack(version=version), threat, few)  # type: ignore[arg-type]
    assert torch.allclose(points, expected, atol=1e-5)
    assert bool(verdict.allowed.all())
    moved = (expected != few.inputs).flatten(1).any(1)
    assert bool(verdict.reached[moved].all())
    assert int(verdict.achieved.sum()) > 0


@pytest.mark.usefixtures("short")
def test_on_a_real_model_in_l1() -> None:
    # Over 3,072 values rounding adds up: what the package claims must be allowed all the same.
    model, images = models.load("builtin:cifar10-resnet18"), data.load("samples:cifar10")
    rows = slice(2)
    victims = Victims(model, images.inputs(rows), images.labels[rows], images.ids[rows])
    threat = ThreatModel(name="t", perturbation=LpBall(norm="l1", radius=12.0))
    points, verdict = against(AutoAttack(version="rand"), threat, victims)
    assert bool(verdict.achieved.all())
    assert bool(threat.allowed.contains(victims.inputs, points).all())


class _Beside(AutoAttack):
    """Claims success at a point that lies outside the set by a given length."""

    beside = 0.0

    def search(self, module: nn.Module, inputs: Tensor, *_: object, **__: object) -> Any:  # noqa: ANN401
        points = inputs.clone()
        points[:, 0, 0, 0] = 1 + self.beside
        return points, torch.ones(len(inputs), dtype=torch.bool)


def test_rounding_is_put_right_and_cheating_is_not(digits: Victims) -> None:
    few = digits.first(3)
    threat = linf(1.0)
    attack = _Beside()
    for beside, allowed in ((1e-6, True), (1e-3, False)):
        _Beside.beside = beside
        points, verdict = against(attack, threat, few)
        assert verdict.allowed.tolist() == [allowed] * 3
        assert float(points.max()) == pytest.approx(
            1.0 if allowed else 1.001, abs=1e-9 if allowed else 1e-6
        )


@pytest.mark.usefixtures("short")
def test_two_classes(two_digits: Victims) -> None:
    attack = AutoAttack()
    assert [part for part, _ in attack.dropped(2)] == ["apgd-t", "fab-t"]
    assert all("2" in reason for _, reason in attack.dropped(2))
    _, verdict = against(attack, linf(0.4), two_digits.first(6))
    assert int(verdict.achieved.sum()) > 0
    assert bool(verdict.allowed.all())


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
def test_few_classes_run_what_they_can(
    two_digits: Victims, three_digits: Victims, version: str
) -> None:
    attack = AutoAttack(version=version)  # type: ignore[arg-type]
    for victims in (two_digits, three_digits):
        _, verdict = against(attack, linf(0.4), victims.first(4))
        assert int(verdict.achieved.sum()) > 0


def test_what_is_dropped() -> None:
    plus = AutoAttack(version="plus")
    assert [part for part, _ in plus.dropped(2)] == ["apgd-dlr", "apgd-t", "fab-t"]
    assert [part for part, _ in plus.dropped(3)] == ["apgd-t", "fab-t"]
    assert plus.dropped(4) == ()
    assert [part for part, _ in AutoAttack(version="rand").dropped(2)] == ["apgd-dlr"]


@pytest.mark.usefixtures("short")
def test_no_more_targets_than_wrong_classes(
    digits: Victims, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    original = pyautoattack.AutoAttack.run_standard_evaluation

    def spying(self: Any, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        seen.append((self.apgd_targeted.n_target_classes, self.fab.n_target_classes))
        return original(self, *args, **options)

    monkeypatch.setattr(pyautoattack.AutoAttack, "run_standard_evaluation", spying)

    class Merged(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            logits: Tensor = digits.model(inputs)
            return torch.cat([logits[:, :4], logits[:, 4:].amax(1, keepdim=True)], dim=1)

    few = digits.first(4)
    merged = Victims(Merged().eval(), few.inputs, few.labels.clamp_max(4), few.ids)
    against(AutoAttack(), linf(0.1), merged)
    assert seen == [(4, 4)]


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("radius", [0.9, 0.001])
def test_one_image_and_batches_broken_at_once(digits: Victims, radius: float) -> None:
    for count in (1, 3):
        _, verdict = against(AutoAttack(), linf(radius), digits.first(count))
        assert bool(verdict.allowed.all())
        assert verdict.achieved.tolist() == [radius > 0.5] * count


def test_square_meets_a_batch_that_its_first_stripes_broke(two_digits: Victims) -> None:
    # One class leads by exactly nothing: Square sees margins that are zero, and none to go on with.
    class Even(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            assert len(inputs), "asked about no rows"
            wrong = (inputs != 0.5).flatten(1).any(1)
            logits = torch.stack([torch.ones_like(wrong), wrong], dim=1).float()
            return logits + 0 * inputs.flatten(1).sum(1, keepdim=True)

    inputs = torch.full((3, 1, 8, 8), 0.5)
    victims = Victims(Even().eval(), inputs, torch.zeros(3, dtype=torch.int64), torch.arange(3))
    points, verdict = against(AutoAttack(), linf(0.1), victims)
    assert bool(verdict.allowed.all())
    assert points.shape == inputs.shape


@pytest.mark.usefixtures("short")
def test_misclassified_images_come_back_as_they_are(digits: Victims) -> None:
    few = digits.first(3)
    wrong = Victims(few.model, few.inputs, (few.labels + 1) % 10, few.ids)
    points, verdict = against(AutoAttack(), linf(0.1), wrong)
    assert torch.equal(points, few.inputs)
    assert bool(verdict.reached.all())


@pytest.mark.usefixtures("short")
def test_passes_are_counted_as_the_model_counts_them(digits: Victims) -> None:
    few = digits.first(4)
    model = Counting(few.model)
    threat = linf(0.12)
    meter = threat.meter(model, few.streams)
    view = grant(meter, Access.GRADIENT)
    AutoAttack().run(
        view,  # type: ignore[arg-type]
        few.inputs,
        few.objective,
        threat.allowed,
        streams=few.streams,
    )
    assert model.rows == meter.ledger.passes.forward > 100
    assert meter.ledger.passes.backward > 40


@pytest.mark.parametrize("queries", [3, 60])
def test_a_budget_is_kept_and_what_was_found_survives_it(digits: Victims, queries: int) -> None:
    few = digits.first(3)
    model = Counting(few.model)
    points, verdict = against(AutoAttack(), linf(0.3, queries=queries), few, model=model)
    assert int(verdict.queries.max()) <= queries
    assert model.rows == int(verdict.queries.sum())
    assert bool(verdict.allowed.all())
    if queries == 60:
        assert bool(verdict.achieved.all())
    else:
        assert torch.equal(points, few.inputs)


@pytest.mark.usefixtures("short")
def test_nothing_global_changes(digits: Victims, caplog: pytest.LogCaptureFixture) -> None:
    few = digits.first(2)
    model = copy.deepcopy(few.model)
    calls = 0

    def tracer(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += 1

    logger = logging.getLogger("auto-attack")
    before, state, level = sys.gettrace(), torch.get_rng_state(), logger.level
    sys.settrace(tracer)
    try:
        with caplog.at_level(logging.DEBUG):
            against(AutoAttack(), linf(0.1), Victims(model, few.inputs, few.labels, few.ids))
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)
    assert calls > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert not [record for record in caplog.records if record.name == "auto-attack"]
    assert (logger.level, logger.disabled) == (level, False)
    assert few.inputs.grad is None
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


class _Raising(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        raise ValueError("the model's own trouble")


def test_what_the_model_raises_is_not_swallowed(digits: Victims) -> None:
    with pytest.raises(ValueError, match="own trouble"):
        against(AutoAttack(), linf(0.1), digits.first(2), model=_Raising().eval())
    assert logging.getLogger("auto-attack").disabled is False


def test_why_not() -> None:
    attack = AutoAttack()
    assert attack.why_not(linf(0.1)) is None
    ranged = ThreatModel(name="t", perturbation=LpBall(norm="linf", radius=0.1, low=-1.0))
    assert "[0, 1]" in str(attack.why_not(ranged))
    assert "finite" in str(attack.why_not(linf(float("inf"))))
    targeted = ThreatModel(name="t", goal=Targeted(), perturbation=linf(0.1).perturbation)
    assert "untargeted" in str(attack.why_not(targeted))
    scores = ThreatModel(name="t", access=Access.SCORE, perturbation=linf(0.1).perturbation)
    assert "gradient" in str(attack.why_not(scores))
    with pytest.raises(BadInput, match="standard, plus, rand"):
        AutoAttack(version="fast")  # type: ignore[arg-type]


def test_nothing_to_do(digits: Victims) -> None:
    points, _ = against(AutoAttack(), linf(0.0), digits.first(2))
    assert torch.equal(points, digits.inputs[:2])
    threat, none = linf(0.1), digits.first(0)
    empty = AutoAttack().run(
        threat.view(digits.model, none.streams),  # type: ignore[arg-type]
        none.inputs,
        Objective(none.labels),
        threat.allowed,
        streams=none.streams,
    )
    assert empty.shape == none.inputs.shape

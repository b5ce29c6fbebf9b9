"""Losses: formulas against plain rewritings, and attacks that leave the model as it was."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustkit import registry
from robustkit.errors import BadInput
from robustkit.randomness import Streams
from robustkit.threat_models import Budget, LpBall, Patch, Stage, ThreatModel
from robustkit.training import Batch
from robustkit.training.losses import (
    AWP,
    MART,
    TRADES,
    Adversarial,
    CrossEntropy,
    Distillation,
    EntropyPenalty,
    FastTraining,
    FreeTraining,
    Loss,
    PGDTraining,
    cross_entropy,
    held,
)
from robustkit.training.losses.base import around
from robustkit.training.losses.early_learning import EarlyLearning
from robustkit.training.losses.inner import maximise
from tests.oracles import linear_problem
from tests.training.tiny import L2, LINF, Normed, Smooth, equal, state, tiny_data

L1 = ThreatModel(name="l1", perturbation=LpBall(norm="l1", radius=2.0))

ADVERSARIAL: list[Callable[[ThreatModel], Adversarial]] = [
    lambda threat: PGDTraining(threat=threat, steps=3),
    lambda threat: TRADES(threat=threat, steps=3),
    lambda threat: MART(threat=threat, steps=3),
    lambda threat: FastTraining(threat=threat),
]
NAMES = ["pgd", "trades", "mart", "fast"]


def batch(n: int = 9, *, epoch: int = 0, ids: Tensor | None = None) -> Batch:
    data = tiny_data(n)
    rows = torch.arange(n) if ids is None else ids
    return Batch(
        inputs=data.inputs(rows),
        labels=data.labels[rows],
        ids=rows,
        epoch=epoch,
        step=0,
        streams=Streams.of(seed=0, ids=rows),
    )


def gradients(model: nn.Module, value: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(value, list(model.parameters())))


@pytest.mark.parametrize("threat", [LINF, L2, L1], ids=lambda threat: str(threat.name))
@pytest.mark.parametrize("make", ADVERSARIAL, ids=NAMES)
class TestAdversarial:
    def test_attacks_stay_inside_the_set_and_raise_the_loss(
        self, make: Callable[[ThreatModel], Adversarial], threat: ThreatModel
    ) -> None:
        model, given = Smooth(seed=3), batch(30)
        changed = make(threat).craft(model, given)
        assert bool(threat.allowed.contains(given.inputs, changed).all())
        assert not changed.requires_grad
        with torch.no_grad():
            gain = make(threat).gain(model, given)
            assert float(gain(model(changed)).mean()) > float(gain(model(given.inputs)).mean())

    def test_the_model_is_left_as_it_was(
        self, make: Callable[[ThreatModel], Adversarial], threat: ThreatModel
    ) -> None:
        for mode in ("eval", "batch"):
            model = Normed().train()
            model.last.eval()
            model.conv.bias.requires_grad_(False)  # type: ignore[union-attr]
            before = state(model)
            flags = [parameter.requires_grad for parameter in model.parameters()]
            loss = dataclasses.replace(make(threat), attack_batch_norm=mode)
            loss.craft(model, batch())
            assert all(torch.equal(value, before[name]) for name, value in state(model).items())
            assert [m.training for m in (model, model.norm, model.last)] == [True, True, False]
            assert model.norm.track_running_stats
            assert [parameter.requires_grad for parameter in model.parameters()] == flags
            assert all(parameter.grad is None for parameter in model.parameters())

    def test_neighbours_do_not_matter(
        self, make: Callable[[ThreatModel], Adversarial], threat: ThreatModel
    ) -> None:
        model = Smooth()
        whole = make(threat).craft(model, batch(9))
        some = make(threat).craft(model, batch(9, ids=torch.tensor([7, 2])))
        torch.testing.assert_close(some, whole[[7, 2]], rtol=0, atol=1e-3)

    def test_it_works_without_gradients_around(
        self, make: Callable[[ThreatModel], Adversarial], threat: ThreatModel
    ) -> None:
        with torch.no_grad():
            inside = make(threat).craft(Smooth(), batch())
        assert torch.equal(inside, make(threat).craft(Smooth(), batch()))


@pytest.mark.parametrize("threat", [LINF, L2], ids=["linf", "l2"])
def test_pgd_finds_the_worst_input_of_a_linear_model(threat: ThreatModel) -> None:
    """The lead of the right class can fall by the dual norm of the slope times the radius."""
    problem = linear_problem((1, 6, 6), examples=8, interior=True)
    ids = torch.arange(len(problem.clean))
    given = Batch(
        inputs=problem.clean,
        labels=problem.labels,
        ids=ids,
        epoch=0,
        step=0,
        streams=Streams.of(seed=0, ids=ids),
    )
    small = threat.with_radius(threat.allowed.radius / 10)
    changed = PGDTraining(threat=small, steps=20).craft(problem.model, given)

    def lead(inputs: Tensor) -> Tensor:
        logits: Tensor = problem.model(inputs).double()
        own: Tensor = logits.gather(1, problem.labels[:, None])[:, 0]
        return own - logits.gather(1, 1 - problem.labels[:, None])[:, 0]

    slope = (problem.model.weight[0] - problem.model.weight[1]).double()
    dual = slope.abs().sum() if threat is LINF else slope.norm()
    fall = lead(problem.clean) - lead(changed)
    most = (dual * small.allowed.radius).expand(len(fall))
    torch.testing.assert_close(fall, most, rtol=1e-3, atol=1e-4)


def test_a_batch_statistics_attack_sees_other_gradients() -> None:
    model = Normed().train()
    with held(model, "batch"):
        by_batch = model(batch().inputs)
    with held(model, "eval"):
        by_running = model(batch().inputs)
    assert not torch.allclose(by_batch, by_running)
    model.norm.eval()
    with held(model, "batch"):
        # A layer that was frozen before stays frozen.
        assert torch.equal(model(batch().inputs), by_running)


def test_pgd_training_is_cross_entropy_on_what_was_found() -> None:
    model, given = Smooth(), batch()
    loss = PGDTraining(threat=LINF, steps=2, label_smoothing=0.2)
    value = loss(model, given)
    assert given.changed is not None
    assert not torch.equal(given.changed, given.inputs)
    expected = F.cross_entropy(model(given.changed), given.labels, label_smoothing=0.2)
    torch.testing.assert_close(value, expected)
    assert set(given.notes) == {"adversarial_accuracy"}


@pytest.mark.parametrize("joint", [True, False])
def test_trades_by_its_formula(joint: bool) -> None:
    model, given = Smooth(), batch()
    given.changed = 1 - given.inputs  # far away, where the two directions of KL differ
    value = TRADES(threat=LINF, beta=3.0, joint=joint)(model, given)
    clean, other = model(given.inputs), model(given.changed)
    p, q = clean.softmax(1), other.softmax(1)
    expected = F.cross_entropy(clean, given.labels) + 3 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(value, expected)
    for mine, theirs in zip(gradients(model, value), gradients(model, expected), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("joint", [True, False])
def test_mart_by_its_formula(joint: bool) -> None:
    model, given = Smooth(), batch()
    given.changed = 1 - given.inputs  # far away, where the two directions of KL differ
    value = MART(threat=LINF, beta=2.0, joint=joint)(model, given)
    p, q = model(given.inputs).softmax(1), model(given.changed).softmax(1)
    rows = []
    for i, label in enumerate(given.labels.tolist()):
        best_wrong = max(q[i, k] for k in range(3) if k != label)
        apart = (p[i] * (p[i] / q[i]).log()).sum()
        rows.append(-q[i, label].log() - (1 - best_wrong).log() + 2 * (1 - p[i, label]) * apart)
    expected = torch.stack(rows).mean()
    torch.testing.assert_close(value, expected)
    for mine, theirs in zip(gradients(model, value), gradients(model, expected), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_one_mixed_batch_is_one_step_of_batch_norm() -> None:
    given = batch()
    given.changed = given.inputs
    for joint, passes in ((True, 1), (False, 2)):
        model = Normed()
        TRADES(threat=LINF, joint=joint)(model, given)
        assert int(model.norm.num_batches_tracked or 0) == passes


def test_soft_labels_do() -> None:
    hard, soft = batch(), batch()
    soft.labels = F.one_hot(soft.labels, 3).float()
    for loss in (
        cross_entropy,
        PGDTraining(threat=LINF, steps=2),
        TRADES(threat=LINF, steps=2),
        MART(threat=LINF, steps=2),
        FastTraining(threat=LINF),
        EntropyPenalty(),
        Distillation(teacher=Smooth(seed=5), weight=0.5),
    ):
        hard.changed = soft.changed = None
        torch.testing.assert_close(loss(Smooth(), hard), loss(Smooth(), soft))
        assert hard.notes.keys() == soft.notes.keys()


def test_the_radius_can_grow() -> None:
    loss = PGDTraining(threat=LINF, ramp_epochs=4)
    assert [round(loss.allowed(epoch).radius, 4) for epoch in range(5)] == [
        0.025,
        0.05,
        0.075,
        0.1,
        0.1,
    ]


def test_the_guard_sees_the_sudden_fall() -> None:
    loss = FastTraining(threat=LINF)
    falls = [{"guard_accuracy": value} for value in (0.3, 0.6, 0.55, 0.2)]
    assert loss.stop(falls[:3]) is None
    reason = loss.stop(falls)
    assert reason is not None
    assert "60.0% to 20.0%" in reason
    values = loss.probe(Smooth(), batch(30))["guard_accuracy"]
    assert values.shape == (30,)
    assert FastTraining(threat=LINF, guard_steps=0).probe(Smooth(), batch()) == {}


def test_free_training_moves_along_the_gradient_of_the_same_pass() -> None:
    model, given = Smooth(), batch()
    loss = FreeTraining(threat=LINF, replays=2)
    with around(loss, model, given):
        first = given.changed
        assert first is not None
        assert bool(LINF.allowed.contains(given.inputs, first.detach()).all())
        loss(model, given).backward()  # type: ignore[no-untyped-call]
    (gradient,) = torch.autograd.grad(
        F.cross_entropy(model(first), given.labels), first, retain_graph=False
    )
    moved = (first.detach() + 0.1 * gradient.sign()).clamp(0, 1)
    expected = moved.clamp(given.inputs - 0.1, given.inputs + 0.1)
    assert given.changed is not None
    torch.testing.assert_close(given.changed, expected)
    with around(loss, model, given):
        assert torch.equal(given.changed.detach(), expected)


@pytest.mark.parametrize("network", [Smooth, Normed])
def test_awp_takes_the_gradient_where_the_loss_is_worse_and_puts_the_weights_back(
    network: Callable[[], nn.Module],
) -> None:
    model, given = network().train(), batch()
    before = state(model)
    loss = AWP(loss=PGDTraining(threat=LINF, steps=2), gamma=0.05)
    here = loss.loss(model, given).detach()
    model.load_state_dict(before)
    with around(loss, model, given):
        value = loss(model, given)
        moved = {
            name: float((parameter - before[name]).norm() / before[name].norm())
            for name, parameter in state(model).items()
            if name in dict(model.named_parameters()) and before[name].norm() > 0
        }
        value.backward()  # type: ignore[no-untyped-call]
    assert float(value.detach()) > float(here)
    for name, parameter in model.named_parameters():
        wanted = 0.05 if parameter.ndim > 1 else 0.0
        assert moved.get(name, 0.0) == pytest.approx(wanted, abs=1e-4)
        assert torch.equal(parameter, before[name])
        assert parameter.grad is not None
    if isinstance(model, Normed):
        # One pass of training, not two.
        assert int(state(model)["norm.num_batches_tracked"]) == 1


def test_awp_puts_the_weights_back_after_an_error_and_waits_for_its_epoch() -> None:
    model = Smooth()
    before = state(model)
    loss = AWP(loss=cross_entropy, gamma=0.1, start_epoch=2)

    def fail(epoch: int) -> None:
        with around(loss, model, batch(epoch=epoch)):
            assert torch.equal(model.last.weight, before["last.weight"]) is (epoch < 2)
            raise RuntimeError("on purpose")

    for epoch in (1, 2):
        with pytest.raises(RuntimeError, match="on purpose"):
            fail(epoch)
        assert all(torch.equal(value, before[name]) for name, value in state(model).items())


def test_awp_refuses_losses_with_a_memory() -> None:
    for inner in (FreeTraining(threat=LINF), EarlyLearning(), AWP(loss=cross_entropy)):
        with pytest.raises(BadInput, match="AWP cannot wrap"):
            AWP(loss=inner)


def test_distillation_from_oneself_is_over_and_leaves_the_teacher() -> None:
    teacher = Normed().train()
    before = state(teacher)
    student = Smooth()
    loss = Distillation(teacher=teacher, temperature=4.0)
    value = loss(student, batch())
    assert float(value.detach()) > 0
    assert teacher.training
    assert all(torch.equal(v, before[name]) for name, v in state(teacher).items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    teacher.eval()
    assert float(loss(teacher, batch()).detach()) == pytest.approx(0, abs=1e-6)


def test_the_entropy_penalty_by_its_formula() -> None:
    model, given = Smooth(), batch()
    p = model(given.inputs).softmax(1)
    expected = F.cross_entropy(model(given.inputs), given.labels) - 2 * (p * p.log()).sum(1).mean()
    torch.testing.assert_close(EntropyPenalty(weight=2.0)(model, given), expected)


def test_early_learning_by_its_formula() -> None:
    model, given = Smooth(), batch(9, ids=torch.tensor([5, 1, 8]))
    loss = EarlyLearning(weight=2.0, memory=0.6)
    p = model(given.inputs).softmax(1)
    fit = F.cross_entropy(model(given.inputs), given.labels)
    target = 0.4 * p.detach()
    for _ in range(2):
        expected = fit + 2 * (1 - (p * target).sum(1)).log().mean()
        torch.testing.assert_close(loss(model, given), expected, rtol=1e-4, atol=1e-5)
        target = 0.6 * target + 0.4 * p.detach()
    other = EarlyLearning(weight=2.0, memory=0.6)
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other(model, given), loss(model, given))
    assert state(model).keys() == state(Smooth()).keys()


def test_smoothing() -> None:
    model, given = Smooth(), batch()
    expected = F.cross_entropy(model(given.inputs), given.labels, label_smoothing=0.1)
    torch.testing.assert_close(CrossEntropy(label_smoothing=0.1)(model, given), expected)
    assert equal(model, Smooth())


@pytest.mark.parametrize(
    "make",
    [
        lambda: CrossEntropy(label_smoothing=1.0),
        lambda: PGDTraining(threat=LINF, steps=0),
        lambda: PGDTraining(threat=LINF, step_size=float("nan")),
        lambda: PGDTraining(threat=LINF, start="zero"),  # type: ignore[arg-type]
        lambda: PGDTraining(threat=LINF, attack_batch_norm="train"),  # type: ignore[arg-type]
        lambda: PGDTraining(threat=ThreatModel(name="none")),
        lambda: PGDTraining(
            threat=ThreatModel(name="patch", perturbation=Patch(height=2, width=2))
        ),
        lambda: PGDTraining(
            threat=ThreatModel(name="poison", stage=Stage.TRAINING, budget=Budget(poison_rate=0.1))
        ),
        lambda: TRADES(threat=LINF, beta=-1.0),
        lambda: MART(threat=LINF, beta=float("nan")),
        lambda: FreeTraining(threat=LINF, replays=0),
        lambda: FreeTraining(threat=ThreatModel(name="none")),
        lambda: FastTraining(threat=LINF, largest_drop=1.0),
        lambda: AWP(loss=cross_entropy, gamma=-1.0),
        lambda: Distillation(teacher=Smooth(), temperature=0.0),
        lambda: Distillation(teacher=Smooth(), weight=1.5),
        lambda: EntropyPenalty(weight=-1.0),
        lambda: EarlyLearning(memory=1.0),
    ],
)
def test_values_that_mean_nothing_are_refused(make: Callable[[], Loss]) -> None:
    with pytest.raises(BadInput):
        make()


def test_every_registered_loss_trains_a_step() -> None:
    given: dict[str, dict[str, Any]] = {"distillation": {"teacher": Smooth(seed=4)}}
    for name, entry in registry.entries("losses").items():
        kind = entry.load()
        options = given.get(name, {"threat": LINF} if "threat" in kind.__annotations__ else {})
        if issubclass(kind, Adversarial):
            options = {"threat": LINF}
        model, examples, loss = Smooth(), batch(), kind(**options)
        with around(loss, model, examples):
            value = loss(model, examples)
            value.backward()
        assert value.ndim == 0, name
        assert model.last.weight.grad is not None, name
        assert kind.__doc__, name


@pytest.mark.parametrize("threat", [LINF, L2])
def test_a_search_goes_on_where_another_has_ended(threat: ThreatModel) -> None:
    some, model = batch(), Smooth()
    clean = some.inputs

    def searched(steps: int, start: Tensor) -> Tensor:
        with held(model):
            return maximise(
                model,
                clean,
                lambda logits: F.cross_entropy(logits, some.labels, reduction="none"),
                threat.allowed,
                steps=steps,
                step_size=0.3,
                start=start,
                streams=some.streams,
            )

    assert torch.equal(searched(2, searched(2, clean)), searched(4, clean))
    # A start outside the set is brought into it.
    outside = searched(1, torch.ones_like(clean))
    assert bool(threat.allowed.contains(clean, outside).all())

"""Foolbox through the view: the same results, counted, limited and without side effects."""

import copy
import logging
import random
import warnings
from dataclasses import replace

import foolbox
import numpy as np
import pytest
import torch
from foolbox.models.pytorch import PyTorchModel
from torch import Tensor, nn

from robustkit import data, models
from robustkit.attacks._foolbox_catalogue import ALIASES, CATALOGUE
from robustkit.attacks.building import build
from robustkit.attacks.foolbox import FoolboxAttack
from robustkit.errors import BadInput, DoesNotFit
from robustkit.randomness import Streams
from robustkit.threat_models import (
    Access,
    LpBall,
    Objective,
    Targeted,
    ThreatModel,
    grant,
)
from robustkit.threat_models.model import Budget
from tests.attacks.conftest import Counting, Victims
from tests.attacks.foreign import RADII, against, threat


def directly(
    name: str, victims: Victims, model: nn.Module, *, epsilon: float | None, **options: object
) -> Tensor:
    """The same attack without robustkit, seeded as the adapter seeds it.

    On a copy of the model, since Foolbox leaves gradients in its parameters.
    """
    wrapped = PyTorchModel(copy.deepcopy(model), bounds=(0, 1), device=victims.inputs.device)
    seed = int(victims.streams.take([0]).fork("foreign").integers(2**31 - 1))
    attack = getattr(foolbox.attacks, name)(**options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _, points, _ = attack(
            wrapped,
            victims.inputs,
            foolbox.criteria.Misclassification(victims.labels),
            epsilons=epsilon,
        )
    result: Tensor = points
    return result


def test_same_points_as_foolbox_itself(digits: Victims) -> None:
    few = digits.first(12)
    expected = directly("LinfPGD", few, few.model, epsilon=0.2, steps=10)
    attack = build("foolbox:LinfPGD", {"steps": "10"})
    assert isinstance(attack, FoolboxAttack)
    points, verdict = against(attack, threat("linf", Access.GRADIENT), few)
    assert torch.equal(points, expected)
    assert bool(verdict.allowed.all())
    assert int(verdict.achieved.sum()) > 0


def test_same_points_on_a_real_model() -> None:
    model, images = models.load("builtin:cifar10-resnet18"), data.load("samples:cifar10")
    rows = slice(3)
    victims = Victims(model, images.inputs(rows), images.labels[rows], images.ids[rows])
    options = {"steps": 3, "abs_stepsize": 4 / 255}
    expected = directly("LinfPGD", victims, model, epsilon=8 / 255, **options)
    attack = FoolboxAttack(class_name="LinfPGD", options=tuple(options.items()))
    allowed = LpBall(norm="linf", radius=8 / 255)
    points, verdict = against(attack, ThreatModel(name="t", perturbation=allowed), victims)
    assert torch.equal(points, expected)
    assert bool(verdict.achieved.all())


@pytest.mark.parametrize("name", ["L2DeepFoolAttack", "DDNAttack", "L2FMNAttack"])
def test_minimal_changes_are_as_small_as_foolboxs(digits: Victims, name: str) -> None:
    few = digits.first(8)
    expected = directly(name, few, few.model, epsilon=None, steps=30)
    attack = FoolboxAttack(class_name=name, options=(("steps", 30),))
    points, verdict = against(attack, threat("l2", Access.GRADIENT), few)
    assert torch.allclose(points, expected, atol=1e-6)
    assert bool(verdict.reached.all())
    # Alone, nothing is worse than Foolbox's own result.
    _, alone = against(attack, threat("l2", Access.GRADIENT, queries=10_000), few)
    assert bool((alone.distance <= verdict.distance + 1e-4).all())


@pytest.mark.parametrize("queries", [None, 40])
def test_passes_are_counted_as_the_model_counts_them(digits: Victims, queries: int | None) -> None:
    few = digits.first(5)
    model = Counting(few.model)
    granted = threat("linf", Access.GRADIENT, queries=queries)
    meter = granted.meter(model, few.streams)
    view = grant(meter, Access.GRADIENT)
    attack = FoolboxAttack(class_name="LinfPGD", options=(("steps", 12),))
    attack.run(view, few.inputs, few.objective, granted.allowed, streams=few.streams)
    # 12 gradients, and Foolbox's own look at the clipped result.
    assert model.rows == meter.ledger.passes.forward == 5 * 13
    assert meter.ledger.passes.backward == 5 * 12
    if queries is not None:
        assert view.spent.tolist() == [13] * 5


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_hop_skip_jump_ends_with_its_budget_and_keeps_what_it_found(
    digits: Victims, norm: str
) -> None:
    few = digits.first(2)
    model = Counting(few.model)
    granted = threat(norm, Access.DECISION, queries=200)
    attack = FoolboxAttack(class_name="HopSkipJumpAttack")
    points, verdict = against(attack, granted, few, model=model)
    assert verdict.queries.tolist() == [200] * 2
    assert model.rows == 400
    assert bool(verdict.reached.all())
    assert bool(granted.allowed.in_box(points).all())
    # More queries find nearer points.
    _, longer = against(attack, replace(granted, budget=Budget(queries=800)), few)
    assert float(longer.distance.mean()) < float(verdict.distance.mean())


def test_a_budget_keeps_the_nearest_success_inside_the_radius(digits: Victims) -> None:
    few = digits.first(8)
    attack = FoolboxAttack(class_name="LinfBasicIterativeAttack", options=(("steps", 200),))
    _, free = against(attack, threat("linf", Access.GRADIENT), few)
    points, verdict = against(attack, threat("linf", Access.GRADIENT, queries=20), few)
    assert int(verdict.queries.max()) == 20
    assert bool(verdict.allowed.all())
    assert torch.equal(verdict.reached, free.reached)
    assert bool((verdict.distance[verdict.reached] <= RADII["linf"] + 1e-6).all())
    assert int(verdict.reached.sum()) >= 4
    unbroken = ~verdict.reached
    assert torch.equal(points[unbroken], few.inputs[unbroken])


def test_decisions_grant_no_scores() -> None:
    granted = threat("linf", Access.DECISION)
    attack = FoolboxAttack(class_name="LinfPGD")
    assert attack.why_not(granted) == "it needs gradient access, the threat grants decision"


def test_targets(digits: Victims) -> None:
    few = digits.first(12)
    objective = Objective(few.labels, (few.labels + 1) % 10)
    granted = replace(threat("linf", Access.GRADIENT), goal=Targeted())
    attack = FoolboxAttack(class_name="LinfBasicIterativeAttack", options=(("steps", 20),))
    _, verdict = against(attack, granted, few, objective)
    assert int(verdict.achieved.sum()) > 0


@pytest.mark.parametrize("queries", [None, 400])
def test_targeted_decision_attacks_start_from_the_batch(
    digits: Victims, queries: int | None
) -> None:
    few = digits.first(10)
    targets = few.labels.flip(0)
    targets = torch.where(targets == few.labels, few.labels.roll(1), targets)
    assert not bool((targets == few.labels).any())
    granted = replace(threat("l2", Access.DECISION, queries=queries), goal=Targeted())
    attack = FoolboxAttack(class_name="BoundaryAttack", options=(("steps", 100),))
    objective = Objective(few.labels, targets)
    _, verdict = against(attack, granted, few, objective)
    assert bool(verdict.reached.all())
    starts = torch.stack([few.inputs[few.labels == target][0] for target in targets])
    assert bool((verdict.distance < granted.allowed.distance(few.inputs, starts)).all())


class _OneLabel(nn.Module):
    """Answers one class to a dark image, whatever is asked about a bright one the other."""

    def forward(self, inputs: Tensor) -> Tensor:
        bright = inputs.flatten(1).mean(1) > 0.9
        return torch.stack([~bright, bright], dim=1).float()


def test_an_image_without_a_start_does_not_take_the_others_with_it() -> None:
    # Uniform noise is never bright: no start for the dark images, any noise serves the bright one.
    inputs = torch.zeros(3, 1, 6, 6)
    inputs[1] = 0.95
    labels = torch.tensor([0, 1, 0])
    victims = Victims(_OneLabel().eval(), inputs, labels, torch.arange(3))
    attack = FoolboxAttack(
        class_name="LinearSearchBlendedUniformNoiseAttack",
        options=(("directions", 2), ("steps", 10)),
    )
    points, verdict = against(attack, threat("l2", Access.DECISION), victims)
    assert verdict.reached.tolist() == [False, True, False]
    assert torch.equal(points[::2], inputs[::2])


def test_other_images_help_where_noise_does_not() -> None:
    inputs = torch.zeros(3, 1, 6, 6)
    inputs[1] = 0.95
    labels = torch.tensor([0, 1, 0])
    victims = Victims(_OneLabel().eval(), inputs, labels, torch.arange(3))
    attack = FoolboxAttack(class_name="BoundaryAttack", options=(("steps", 5),))
    _, verdict = against(attack, threat("l2", Access.DECISION), victims)
    assert bool(verdict.reached.all())


class _Raising(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        raise ValueError("the model's own trouble")


@pytest.mark.parametrize("queries", [None, 10])
def test_what_the_model_raises_is_not_swallowed(digits: Victims, queries: int | None) -> None:
    few = digits.first(2)
    attack = FoolboxAttack(class_name="LinfPGD")
    with pytest.raises(ValueError, match="own trouble"):
        against(
            attack, threat("linf", Access.GRADIENT, queries=queries), few, model=_Raising().eval()
        )


@pytest.mark.parametrize("queries", [None, 10])
def test_an_attack_that_never_began_is_not_withstood(
    digits: Victims, queries: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("no attack today")

    monkeypatch.setattr(FoolboxAttack, "search", broken)
    attack = FoolboxAttack(class_name="LinfPGD")
    with pytest.raises(ValueError, match="no attack today"):
        against(attack, threat("linf", Access.GRADIENT, queries=queries), digits.first(2))


class _Flat(nn.Module):
    """No gradient at all."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.zeros(len(inputs), 3)


def test_a_model_without_gradients_is_not_called_robust(digits: Victims) -> None:
    with pytest.raises(DoesNotFit, match="carries no gradient"):
        against(
            FoolboxAttack(class_name="LinfPGD"),
            threat("linf", Access.GRADIENT),
            digits.first(2),
            model=_Flat().eval(),
        )


class _Numbers(nn.Module):
    """Answers only questions that are numbers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        assert bool(inputs.isfinite().all()), "asked about NaN"
        logits: Tensor = self.model(inputs)
        return logits


@pytest.mark.parametrize(
    ("name", "access"),
    [("NewtonFoolAttack", Access.GRADIENT), ("BoundaryAttack", Access.DECISION)],
)
def test_a_search_that_asks_about_nan_ends(digits: Victims, name: str, access: Access) -> None:
    # NewtonFool divides by a gradient that has vanished, the boundary attack by the distance of an
    # image that counts as adversarial already.
    few = digits.first(6)
    wanted = few.objective
    if access is Access.DECISION:
        wanted = Objective((few.labels + 1) % 10)
    attack = FoolboxAttack(class_name=name, options=(("steps", 10),))
    points, verdict = against(attack, threat("l2", access), few, wanted, _Numbers(few.model))
    assert bool(points.isfinite().all())
    if access is Access.DECISION:
        assert torch.equal(points, few.inputs)
        assert bool(verdict.reached.all())


def test_nothing_global_changes(digits: Victims) -> None:
    few = digits.first(3)
    before = torch.get_rng_state(), np.random.get_state(legacy=False), random.getstate()  # noqa: NPY002
    handlers, filters = list(logging.getLogger().handlers), list(warnings.filters)
    kept = few.inputs.clone()
    for name in ("LinfPGD", "PointwiseAttack", "SaltAndPepperNoiseAttack"):
        known = CATALOGUE[ALIASES.get(name, name)]
        granted = threat(known.norms[0], known.access, queries=100)
        against(FoolboxAttack(class_name=name), granted, few)
    after = torch.get_rng_state(), np.random.get_state(legacy=False), random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert np.array_equal(before[1]["state"]["key"], after[1]["state"]["key"])
    assert before[1]["state"]["pos"] == after[1]["state"]["pos"]
    assert before[2] == after[2]
    assert logging.getLogger().handlers == handlers
    assert warnings.filters == filters
    assert torch.equal(few.inputs, kept)
    assert few.inputs.grad is None
    assert all(parameter.grad is None for parameter in few.model.parameters())


def test_same_streams_same_points(digits: Victims) -> None:
    few = digits.first(3)
    for name, access, norm in (
        ("LinfPGD", Access.GRADIENT, "linf"),
        ("PointwiseAttack", Access.DECISION, "l0"),
    ):
        attack = FoolboxAttack(class_name=name)
        first, _ = against(attack, threat(norm, access, queries=150), few)
        second, _ = against(attack, threat(norm, access, queries=150), few)
        assert torch.equal(first, second)
    sevens = Victims(few.model, few.inputs, few.labels, few.ids + 7)
    third, _ = against(FoolboxAttack(class_name="LinfPGD"), threat("linf", Access.GRADIENT), sevens)
    fourth, _ = against(FoolboxAttack(class_name="LinfPGD"), threat("linf", Access.GRADIENT), few)
    assert not torch.equal(third, fourth)


def test_no_rows_and_no_radius(digits: Victims) -> None:
    attack = FoolboxAttack(class_name="LinfPGD")
    none = digits.first(0)
    granted = threat("linf", Access.GRADIENT)
    view = granted.view(digits.model, none.streams)
    empty = attack.run(view, none.inputs, none.objective, granted.allowed, streams=none.streams)
    assert empty.shape == none.inputs.shape
    few = digits.first(2)
    points, _ = against(attack, granted.with_radius(0), few)
    assert torch.equal(points, few.inputs)


def test_streams_have_to_match(digits: Victims) -> None:
    few = digits.first(2)
    granted = threat("linf", Access.GRADIENT)
    with pytest.raises(BadInput, match="streams"):
        FoolboxAttack(class_name="LinfPGD").run(
            granted.view(few.model, few.streams),
            few.inputs,
            few.objective,
            granted.allowed,
            streams=Streams.of(seed=0, ids=torch.arange(3)),
        )

"""The contract of attacks: one list of checks that every registered attack must pass.

Each check raises AssertionError with the reason. `test_checks.py` shows that each one catches an
attack that breaks it.
"""

import copy
import dataclasses
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from robustkit.attacks import EvasionAttack
from robustkit.errors import DoesNotFit
from robustkit.randomness import Streams
from robustkit.threat_models import (
    Access,
    Backdoor,
    LpBall,
    Meter,
    Objective,
    Patch,
    Stage,
    ThreatModel,
    grant,
)
from robustkit.threat_models.perturbation import Norm
from tests.oracles import Counting, Network, check_against_optimum, linear_problem

RADII: dict[Norm, float] = {"linf": 0.06, "l2": 0.4, "l1": 2.0, "l0": 3.0}
WIDTH = 8
# Queries per image for attacks that ask for scores or labels, where a check names no budget.
QUERIES = 250


@dataclass(frozen=True, kw_only=True)
class Case:
    """One attack in one norm on one device; `factor` makes the radii larger."""

    attack: EvasionAttack[Any]
    norm: Norm
    device: torch.device
    factor: float = 1.0


@dataclass
class Outcome:
    """What an attack was given and what it made of it."""

    clean: Tensor
    changed: Tensor
    model: Network
    counting: Counting
    meter: Meter
    allowed: LpBall


def attacked(
    case: Case,
    *,
    rows: tuple[int, ...] = (0, 1, 2, 3),
    shape: tuple[int, int, int] = (3, 7, 5),
    width: int | None = None,
    queries: int | None = None,
    radius: float | None = None,
    target: bool = False,
    before: Callable[[Network, Tensor], None] | None = None,
) -> Outcome:
    """Run the attack on some of a fixed set of images.

    Args:
        case: The attack.
        rows: Which of the images, which are also their ids.
        shape: Channels, height and width of the images.
        width: Rows in which the model is run.
        queries: The budget; by default none for attacks that take gradients, and few for others.
        radius: Of the ball; by default one at which some images fall and some do not.
        target: Whether to ask for a particular wrong label.
        before: Looks at the model and the inputs before the attack sees them.
    """
    model = Network(channels=shape[0]).to(case.device)
    images = torch.rand(12, *shape, generator=torch.Generator().manual_seed(1)).to(case.device)
    labels = model(images).argmax(1)
    index = torch.tensor(rows, dtype=torch.int64, device=case.device)
    clean, labels = images[index], labels[index]
    objective = Objective(labels, (labels + 1) % 4 if target else None)
    streams = Streams.of(seed=3, ids=index)
    if queries is None and case.attack.access < Access.GRADIENT:
        queries = QUERIES
    counting = Counting(model)
    meter = Meter(counting, streams, width=width, queries=queries)
    allowed = LpBall(
        norm=case.norm, radius=RADII[case.norm] * case.factor if radius is None else radius
    )
    if before is not None:
        before(model, clean)
    changed = case.attack.run(
        grant(meter, case.attack.access), clean, objective, allowed, streams=streams
    )
    return Outcome(clean, changed, model, counting, meter, allowed)


def same_shape_type_and_device(case: Case) -> None:
    """The result is like the inputs, and is not the inputs themselves."""
    outcome = attacked(case)
    assert outcome.changed.shape == outcome.clean.shape
    assert outcome.changed.dtype == torch.float32
    assert outcome.changed.device == outcome.clean.device
    assert not outcome.changed.requires_grad
    assert outcome.changed.data_ptr() != outcome.clean.data_ptr()


def inputs_are_untouched(case: Case) -> None:
    """Neither the inputs' values nor their flags change."""
    kept: list[Tensor] = []
    outcome = attacked(case, before=lambda _, clean: kept.append(clean.clone()))
    assert torch.equal(outcome.clean, kept[0])
    assert not outcome.clean.requires_grad
    assert outcome.clean.grad is None


def model_is_untouched(case: Case) -> None:
    """Parameters, their flags and gradients, statistics and modes stay as they were."""
    kept: list[dict[str, Tensor]] = []

    def remember(model: Network, _: Tensor) -> None:
        # One layer is frozen and one in the wrong mode on purpose: nobody may tidy up.
        model.last.bias.requires_grad_(False)
        model.first.train()
        kept.append(copy.deepcopy(model.state_dict()))

    outcome = attacked(case, before=remember)
    for name, value in outcome.model.state_dict().items():
        assert torch.equal(value, kept[0][name]), f"{name} was changed"
    for name, parameter in outcome.model.named_parameters():
        assert parameter.grad is None, f"{name} has a gradient"
        assert parameter.requires_grad is (name != "last.bias"), f"{name} was (un)frozen"
    for name, module in outcome.model.named_modules():
        assert module.training is (name == "first"), f"{name or 'the model'} changed its mode"
    assert not any(module._forward_hooks for module in outcome.model.modules()), "hooks were left"


def same_streams_same_result(case: Case) -> None:
    """Bit by bit, whatever state the global generators are in; and these are left alone."""
    first = attacked(case).changed
    torch.manual_seed(11)
    state = torch.get_rng_state()
    assert torch.equal(attacked(case).changed, first)
    assert torch.equal(torch.get_rng_state(), state), "the global generator was moved"


def results_are_allowed(case: Case) -> None:
    """Inside the set; for an attack that looks for the smallest change, inside the range."""
    for target in (False, True) if "targeted" in case.attack.goals else (False,):
        outcome = attacked(case, rows=tuple(range(6)), target=target)
        inside = outcome.allowed.in_box(outcome.changed)
        if not case.attack.minimises:
            inside = outcome.allowed.contains(outcome.clean, outcome.changed)
        assert bool(inside.all()), f"outside the set: {inside.tolist()}"


def budgets_are_kept(case: Case) -> None:
    """No example pays more than it may, and the attack ends rather than fails."""
    for queries in (1, 6):
        outcome = attacked(case, queries=queries, rows=(0, 1, 2))
        assert outcome.meter.ledger.attributed, "a query under a budget was paid by nobody"
        assert int(outcome.meter.ledger.forward.max()) <= queries
        assert outcome.counting.forward_rows == int(outcome.meter.ledger.forward.sum())
        assert outcome.changed.shape == outcome.clean.shape
        assert bool(outcome.allowed.in_box(outcome.changed).all())


def one_image_is_a_batch(case: Case) -> None:
    """A batch of one."""
    outcome = attacked(case, rows=(2,))
    assert outcome.changed.shape == (1, 3, 7, 5)
    if not case.attack.minimises:
        assert bool(outcome.allowed.contains(outcome.clean, outcome.changed).all())


def no_image_is_a_batch(case: Case) -> None:
    """A batch of none asks the model nothing."""
    outcome = attacked(case, rows=())
    assert outcome.changed.shape == (0, 3, 7, 5)
    assert outcome.counting.calls == 0, "the model was asked about nothing"


def radius_nought_changes_nothing(case: Case) -> None:
    """An adversary that may change nothing changes nothing."""
    if not case.attack.minimises:
        outcome = attacked(case, radius=0.0)
        assert torch.equal(outcome.changed, outcome.clean)


def any_shape_of_images(case: Case) -> None:
    """One channel, more wide than high, more high than wide."""
    for shape in ((1, 4, 9), (2, 9, 4)):
        outcome = attacked(case, shape=shape, rows=(0, 1))
        assert outcome.changed.shape == (2, *shape)
        assert bool(outcome.allowed.in_box(outcome.changed).all())


def order_and_neighbours_do_not_matter(case: Case) -> None:
    """Bit by bit at a fixed width, for every attack that does not say otherwise."""
    if not case.attack.order_free:
        return
    everyone = tuple(range(12))
    order = (7, 2, 10, 0, 11, 5, 1, 9, 3, 8, 6, 4)
    together = attacked(case, rows=everyone, width=WIDTH)
    shuffled = attacked(case, rows=order, width=WIDTH)
    assert torch.equal(shuffled.changed, together.changed[list(order)]), "order matters"
    spent = together.meter.ledger.forward
    assert torch.equal(shuffled.meter.ledger.forward, spent[list(order)]), "order changes the cost"
    for rows in ((4,), (9, 1, 6)):
        some = attacked(case, rows=rows, width=WIDTH)
        assert torch.equal(some.changed, together.changed[list(rows)]), "neighbours matter"
    assert set(together.counting.widths) == {WIDTH}


def wrong_threats_are_refused(case: Case) -> None:
    """With the reason; and the right one is not."""
    attack = case.attack
    right = ThreatModel(
        name="right",
        access=attack.access,
        perturbation=LpBall(norm=case.norm, radius=RADII[case.norm]),
    )
    assert attack.why_not(right) is None, attack.why_not(right)
    attack.check(right)
    wrong = {
        "training": dataclasses.replace(right, stage=Stage.TRAINING),
        "patch": dataclasses.replace(right, perturbation=Patch(height=2, width=2)),
        "no change": dataclasses.replace(right, perturbation=None),
        "backdoor": dataclasses.replace(right, goal=Backdoor(1)),
    }
    for norm in set(RADII) - attack.norms:
        wrong[norm] = dataclasses.replace(right, perturbation=LpBall(norm=norm, radius=1.0))
    if attack.access > Access.DECISION:
        lower = Access(attack.access - 1)
        wrong[str(lower)] = dataclasses.replace(right, access=lower)
    for said, threat in wrong.items():
        reason = attack.why_not(threat)
        assert reason is not None, f"{said} was not refused"
        assert said in reason, f"the reason does not say {said}: {reason}"
        with pytest.raises(DoesNotFit, match=re.escape(reason)):
            attack.check(threat)


def attacks_are_values(case: Case) -> None:
    """Frozen, comparable, and the same after a pickle round trip: they travel to workers."""
    again = pickle.loads(pickle.dumps(case.attack))
    assert again == case.attack
    assert hash(again) == hash(case.attack)
    assert dataclasses.is_dataclass(case.attack)
    for field in dataclasses.fields(case.attack):
        try:
            setattr(again, field.name, None)
        except dataclasses.FrozenInstanceError:
            continue
        raise AssertionError(f"{field.name} can be set")


def every_pass_is_counted(case: Case) -> None:
    """The view's bill is what an independent counter in the model saw."""
    outcome = attacked(case)
    bill = outcome.meter.ledger.passes
    assert bill.forward > 0, "nothing was asked"
    assert bill.forward == outcome.counting.forward_rows
    assert bill.backward == outcome.counting.backward_rows
    assert bill.rows_run == outcome.counting.forward_rows


def known_optima_are_reached(case: Case) -> None:
    """Within 1.25 x the smallest radius of linear models, never below it; ours only."""
    if case.attack.order_free:
        # In l2, random search gets near an optimum only after very many queries.
        random = case.attack.access is Access.SCORE and case.norm == "l2"
        slack = 2.0 if random else 1.25
        problem = linear_problem(interior=True, examples=3, seed=4).to(case.device)
        check_against_optimum(case.attack, problem, case.norm, slack=slack)


CHECKS: tuple[Callable[[Case], None], ...] = (
    same_shape_type_and_device,
    inputs_are_untouched,
    model_is_untouched,
    same_streams_same_result,
    results_are_allowed,
    budgets_are_kept,
    one_image_is_a_batch,
    no_image_is_a_batch,
    radius_nought_changes_nothing,
    any_shape_of_images,
    order_and_neighbours_do_not_matter,
    wrong_threats_are_refused,
    attacks_are_values,
    every_pass_is_counted,
    known_optima_are_reached,
)

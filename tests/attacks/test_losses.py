"""Losses: their values, their signs, and what becomes of them with few classes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustkit.attacks.losses import LOSSES, AttackLoss, cross_entropy, dlr, margin
from robustkit.threat_models import Objective, Output

LOGITS = torch.tensor([[4.0, 1.0, 0.0, -2.0], [1.0, 4.0, 0.0, -2.0], [0.0, 1.0, 3.0, 2.0]])
LABELS = torch.tensor([0, 0, 0])
TARGETS = torch.tensor([1, 1, 3])
names = pytest.mark.parametrize("name", list(LOSSES))


@st.composite
def answers(draw: st.DrawFn, least: int = 2) -> tuple[Tensor, Objective, Objective]:
    """Random logits with labels and targets that differ from them."""
    classes = draw(st.integers(least, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    logits = torch.randn(8, classes, generator=generator) * draw(st.sampled_from([0.1, 1.0, 30.0]))
    labels = torch.randint(classes, (8,), generator=generator)
    targets = (labels + torch.randint(1, classes, (8,), generator=generator)) % classes
    return logits, Objective(labels), Objective(labels, targets)


def test_values_computed_by_hand() -> None:
    untargeted, targeted = Objective(LABELS), Objective(LABELS, TARGETS)
    assert margin(LOGITS, untargeted).tolist() == [-3.0, 3.0, 3.0]
    assert margin(LOGITS, targeted).tolist() == [-3.0, 3.0, -1.0]
    torch.testing.assert_close(dlr(LOGITS, untargeted), torch.tensor([-3 / 4, 3 / 4, 3 / 2]))
    torch.testing.assert_close(dlr(LOGITS, targeted), torch.tensor([-3 / 5, 3 / 5, 2 / 2.5]))
    first = torch.log(torch.tensor([4.0, 1.0, 0.0, -2.0]).exp().sum()) - 4.0
    torch.testing.assert_close(cross_entropy(LOGITS, untargeted)[0], first)
    torch.testing.assert_close(
        cross_entropy(LOGITS, targeted)[1], -cross_entropy(LOGITS, Objective(TARGETS))[1]
    )


@names
@given(case=answers())
@settings(max_examples=40)
def test_every_row_is_its_own_loss(
    name: AttackLoss, case: tuple[Tensor, Objective, Objective]
) -> None:
    logits, *objectives = case
    for objective in objectives:
        together = LOSSES[name](logits, objective)
        assert together.shape == (8,)
        alone = [LOSSES[name](logits[i : i + 1], objective.take(slice(i, i + 1))) for i in range(8)]
        assert torch.equal(torch.cat(alone), together)


@given(case=answers())
@settings(max_examples=60)
def test_the_margin_is_positive_exactly_where_the_goal_is_reached(
    case: tuple[Tensor, Objective, Objective],
) -> None:
    logits, *objectives = case
    for objective in objectives:
        assert torch.equal(margin(logits, objective) > 0, objective.reached(Output(logits)))
    untargeted = objectives[0]
    assert torch.equal(dlr(logits, untargeted) > 0, untargeted.reached(Output(logits)))


@names
@given(case=answers())
@settings(max_examples=40)
def test_the_gradient_lowers_the_right_class_or_raises_the_target(
    name: AttackLoss, case: tuple[Tensor, Objective, Objective]
) -> None:
    logits, untargeted, targeted = case
    logits = logits.clamp(-5, 5).requires_grad_()
    (away,) = torch.autograd.grad(LOSSES[name](logits, untargeted).sum(), logits)
    assert bool((away.gather(1, untargeted.labels[:, None]) <= 0).all())
    assert targeted.targets is not None
    (towards,) = torch.autograd.grad(LOSSES[name](logits, targeted).sum(), logits)
    if name != "dlr":
        assert bool((towards.gather(1, targeted.targets[:, None]) >= 0).all())
    assert bool(away.isfinite().all())
    assert bool(towards.isfinite().all())


@given(case=answers(least=4), factor=st.sampled_from([0.01, 3.0, 1e4]))
@settings(max_examples=40)
def test_the_ratio_changes_neither_with_scale_nor_with_shift(
    case: tuple[Tensor, Objective, Objective], factor: float
) -> None:
    logits, *objectives = case
    for objective in objectives:
        value = dlr(logits.double(), objective)
        torch.testing.assert_close(dlr(logits.double() * factor + 7, objective), value)


def test_the_ratio_falls_back_to_the_margin_with_few_classes() -> None:
    two, three = torch.randn(3, 2), torch.randn(3, 3)
    labels, targets = torch.tensor([0, 1, 0]), torch.tensor([1, 0, 1])
    for logits, objective in (
        (two, Objective(labels)),
        (two, Objective(labels, targets)),
        (three, Objective(labels, targets)),
    ):
        assert torch.equal(dlr(logits, objective), margin(logits, objective))
    assert not torch.equal(dlr(three, Objective(labels)), margin(three, Objective(labels)))


@names
def test_equal_logits_give_finite_losses_and_gradients(name: AttackLoss) -> None:
    for objective in (Objective(LABELS), Objective(LABELS, TARGETS)):
        logits = torch.zeros(3, 4, requires_grad=True)
        loss = LOSSES[name](logits, objective)
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert bool(loss.isfinite().all())
        assert bool(gradient.isfinite().all())


@names
def test_losses_stay_on_the_device(name: AttackLoss, device: torch.device) -> None:
    objective = Objective(LABELS.to(device), TARGETS.to(device))
    assert LOSSES[name](LOGITS.to(device), objective).device.type == device.type


def test_certainty_does_not_turn_the_cross_entropy() -> None:
    """What pushes the wrong class up pushes the right one down as much, however sure the model."""
    for lead in (1.0, 20.0, 60.0, 80.0):
        logits = torch.tensor([[lead, 0.0]], requires_grad=True)
        loss = cross_entropy(logits, Objective(torch.tensor([0])))
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert float(gradient[0, 1]) > 0
        assert float(gradient[0, 0]) == -float(gradient[0, 1])
        exact = torch.nn.functional.cross_entropy(logits.detach().double(), torch.tensor([0]))
        torch.testing.assert_close(loss[0].double().detach(), exact, rtol=1e-4, atol=1e-20)

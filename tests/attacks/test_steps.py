"""Steepest directions and the best l1 change."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from robustkit.attacks.steps import linear_maximum_l1, reach, steepest
from robustkit.threat_models import LpBall

CLEAN = torch.rand(4, 3, 4, 6, generator=torch.Generator().manual_seed(0))
GRADIENT = torch.randn(4, 3, 4, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("norm", "order"), [("linf", torch.inf), ("l2", 2), ("l1", 1)])
def test_steps_have_length_one_and_go_up(norm: str, order: float) -> None:
    allowed = LpBall(norm=norm, radius=0.3)  # type: ignore[arg-type]
    step = steepest(GRADIENT, CLEAN, allowed, sparsity=0.1).flatten(1)
    length = torch.linalg.vector_norm(step, order, dim=1)
    torch.testing.assert_close(length, torch.ones(4))
    assert bool(((step * GRADIENT.flatten(1)).sum(1) > 0).all())


def test_linf_and_l2_steps_are_steepest() -> None:
    """By Hoelder's inequality no step of length one gains more than the dual norm."""
    flat = GRADIENT.flatten(1)
    for norm, dual in (("linf", flat.abs().sum(1)), ("l2", flat.norm(dim=1))):
        allowed = LpBall(norm=norm, radius=0.3)  # type: ignore[arg-type]
        step = steepest(GRADIENT, CLEAN, allowed, sparsity=1.0).flatten(1)
        torch.testing.assert_close((step * flat).sum(1), dual)


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-12, 1.0, 1e30])
def test_the_l2_direction_does_not_depend_on_the_gradient_s_size(scale: float) -> None:
    allowed = LpBall(norm="l2", radius=0.3)
    step = steepest(GRADIENT * scale, CLEAN, allowed, sparsity=1.0)
    expected = steepest(GRADIENT, CLEAN, allowed, sparsity=1.0)
    torch.testing.assert_close(step, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_row_without_gradient_stays(norm: str) -> None:
    gradient = GRADIENT.clone()
    gradient[2] = 0
    allowed = LpBall(norm=norm, radius=0.3)  # type: ignore[arg-type]
    step = steepest(gradient, CLEAN, allowed, sparsity=0.1)
    assert not bool(step[2].any())
    assert bool(step.isfinite().all())
    assert bool(step[0].any())


@pytest.mark.parametrize(("sparsity", "count"), [(1e-9, 1), (0.05, 4), (0.5, 36), (1.0, 72)])
def test_l1_steps_move_the_largest_gradients(sparsity: float, count: int) -> None:
    allowed = LpBall(norm="l1", radius=0.3)
    step = steepest(GRADIENT, CLEAN, allowed, sparsity=sparsity).flatten(1)
    moved = step != 0
    assert moved.sum(1).tolist() == [count] * 4
    smallest_moved = GRADIENT.flatten(1).abs().masked_fill(~moved, torch.inf).amin(1)
    largest_left = GRADIENT.flatten(1).abs().masked_fill(moved, 0).amax(1)
    assert bool((smallest_moved >= largest_left).all())


def test_l1_steps_leave_alone_what_cannot_move() -> None:
    clean = torch.tensor([1.0, 0.0, 0.5, 0.2]).reshape(1, 1, 2, 2)
    gradient = torch.tensor([9.0, -8.0, 1.0, -2.0]).reshape(1, 1, 2, 2)
    allowed = LpBall(norm="l1", radius=0.3)
    step = steepest(gradient, clean, allowed, sparsity=0.25).flatten()
    assert step.tolist() == [0.0, 0.0, 0.0, -1.0]


@given(
    seed=st.integers(0, 2**32 - 1),
    radius=st.sampled_from([0.0, 0.1, 1.0, 3.0, 100.0]),
    zeros=st.booleans(),
)
@settings(max_examples=40)
def test_the_l1_maximum_is_what_linear_programming_finds(
    seed: int, radius: float, *, zeros: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    clean = (torch.rand(1, 2, 2, 3, generator=generator) * 1.4 - 0.2).clamp(0, 1)
    gradient = torch.randn(clean.shape, generator=generator)
    if zeros:
        gradient = gradient * (torch.rand(clean.shape, generator=generator) < 0.5)
    allowed = LpBall(norm="l1", radius=radius)
    change = linear_maximum_l1(gradient, clean, allowed)
    slope, x = gradient.flatten().double().numpy(), clean.flatten().double().numpy()
    best = optimize.linprog(
        [*-slope, *slope],
        A_ub=[[1.0] * 24],
        b_ub=[radius],
        bounds=[(0, 1 - value) for value in x] + [(0, value) for value in x],
    )
    assert float((change * gradient).sum()) == pytest.approx(-best.fun, abs=1e-4)
    assert float(change.abs().sum()) <= radius + 1e-5
    assert bool(allowed.in_box(clean + change * 0.999999))


def test_the_reach_is_the_radius_or_the_range() -> None:
    like = torch.zeros(1, 1, 4, 4)
    for norm, widest in (("linf", 1.0), ("l2", 4.0), ("l1", 16.0)):
        assert reach(LpBall(norm=norm, radius=0.5), like) == 0.5  # type: ignore[arg-type]
        assert reach(LpBall(norm=norm, radius=torch.inf), like) == widest  # type: ignore[arg-type]
    assert reach(LpBall(norm="linf", radius=9.0, low=-1.0, high=3.0), like) == 4.0

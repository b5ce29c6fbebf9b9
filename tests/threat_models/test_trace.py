"""Distances over queries, as the meter saw them."""

import math

import pytest
import torch
from torch import Tensor

from robustkit.attacks import build
from robustkit.errors import BadInput, ShapeMismatch
from robustkit.randomness import Streams
from robustkit.threat_models import (
    Access,
    LpBall,
    Meter,
    Objective,
    Trace,
    curve,
    grant,
)
from tests.oracles import Problem, Rejecting, linear_problem

BALL = LpBall(norm="l2", radius=0.5)


def traced(
    problem: Problem, *, width: int | None = None, queries: int | None = None
) -> tuple[Meter, Trace]:
    streams = Streams.of(seed=0, ids=torch.arange(len(problem.clean)))
    meter = Meter(problem.model, streams, width=width, queries=queries)
    trace = Trace(problem.clean, Objective(problem.labels), BALL)
    meter.observer = trace.observe
    return meter, trace


def crossing(problem: Problem, row: int, share: float) -> Tensor:
    """A point on the line to another input of the other class."""
    other = problem.clean[(problem.labels != problem.labels[row]).nonzero()[0, 0]]
    return torch.lerp(problem.clean[row], other, share)


@pytest.mark.parametrize("width", [None, 1, 4])
def test_the_smallest_distance_so_far_by_query_number(width: int | None) -> None:
    problem = linear_problem(examples=5)
    row = int((problem.labels == problem.labels[0]).nonzero()[-1])
    meter, trace = traced(problem, width=width)
    view = grant(meter, Access.DECISION)
    points = torch.stack([crossing(problem, row, share) for share in (0.0, 1.0, 0.9, 0.95)])
    view.labels(points[:1], torch.tensor([row]))
    # In one batch, with another payer and padding in between.
    mixed = torch.stack([points[1], problem.clean[0], points[2], points[2], points[3]])
    view.labels(mixed, torch.tensor([row, 0 if row else 1, -1, row, row]))
    far = float(BALL.distance(problem.clean[row : row + 1], points[1:2]))
    found = trace.smallest([0, 1, 2, 3, 4])[row].tolist()
    assert found == pytest.approx([math.inf, math.inf, far, 0.9 * far, 0.9 * far], rel=1e-5)
    assert view.spent[row] == 4


def test_only_points_in_range_that_reach_the_objective_count() -> None:
    problem = linear_problem(examples=4)
    meter, trace = traced(problem)
    view = grant(meter, Access.DECISION)
    view.labels(problem.clean)
    outside = problem.clean - 100 * problem.model.weight[problem.labels].reshape_as(problem.clean)
    assert bool((view.labels(outside) != problem.labels).all())
    view.labels(outside.clamp(0, 1).nan_to_num() * torch.nan)
    assert bool(trace.smallest([10]).isinf().all())


def test_a_refused_answer_is_no_success() -> None:
    problem = linear_problem(examples=4)
    streams = Streams.of(seed=0, ids=torch.arange(4))
    meter = Meter(Rejecting(problem.model, math.inf), streams)
    trace = Trace(problem.clean, Objective(1 - problem.labels), BALL)
    meter.observer = trace.observe
    grant(meter, Access.DECISION).labels(problem.clean)
    assert bool(trace.smallest([10]).isinf().all())


def test_an_observer_changes_no_answer_and_no_bill() -> None:
    problem = linear_problem(examples=4)
    meter, _ = traced(problem, width=3)
    plain = Meter(problem.model, Streams.of(seed=0, ids=torch.arange(4)), width=3)
    for account in (meter, plain):
        grant(account, Access.DECISION).labels(problem.clean, torch.tensor([0, 0, -1, 3]))
    assert torch.equal(meter.ledger.forward, plain.ledger.forward)
    assert meter.ledger.rows_run == plain.ledger.rows_run


def test_attacks_of_other_packages_are_traced_by_the_same_view() -> None:
    problem = linear_problem((1, 4, 4), examples=3)
    meter, trace = traced(problem, queries=120)
    view = grant(meter, Access.DECISION)
    attack = build("foolbox:HopSkipJumpAttack", {"steps": "3", "initial_gradient_eval_steps": "10"})
    streams = Streams.of(seed=0, ids=torch.arange(3))
    points = attack.run(view, problem.clean, Objective(problem.labels), BALL, streams=streams)
    found = trace.smallest([120])[:, 0]
    assert torch.equal(found, BALL.distance(problem.clean, points))


def test_a_curve_over_queries() -> None:
    infinite = math.inf
    distances = torch.tensor(
        [[infinite, 1.0], [4.0, 0.375], [2.0, 0.25], [infinite, infinite], [1.0, 0.5]]
    ).double()
    first, second = curve(distances, [10, 20], radius=0.5)
    assert (first.queries, first.median, first.q25, first.q75) == (10, 4.0, 2.0, infinite)
    assert first.success == 0.0
    assert (second.median, second.q25, second.q75) == (0.5, 0.375, 1.0)
    assert second.success == 0.6


def test_quartiles_between_two_examples_are_interpolated() -> None:
    (point,) = curve(torch.tensor([[1.0], [2.0], [3.0], [6.0]]).double(), [5], radius=2.0)
    assert (point.q25, point.median, point.q75) == (1.75, 2.5, 3.75)
    (half,) = curve(torch.tensor([[1.0], [math.inf]]).double(), [5], radius=2.0)
    assert half.median == math.inf


def test_a_curve_needs_examples_and_its_own_budgets() -> None:
    with pytest.raises(BadInput, match="at least one"):
        curve(torch.zeros(0, 1), [1], radius=1.0)
    with pytest.raises(ShapeMismatch, match="2 budgets"):
        curve(torch.zeros(3, 1), [1, 2], radius=1.0)

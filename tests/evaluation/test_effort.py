"""What more effort might find is told from the rate at which the search found at last."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.stats import poisson

from robustkit import evaluate
from robustkit.attacks import FGSM, PGD, EvasionAttack, RayS
from robustkit.evaluation.effort import later_half
from robustkit.models.cnn import CNN
from robustkit.report import Effort
from robustkit.statistics import count_at_most
from robustkit.threat_models import Budget, load
from tests.evaluation.victims import digits, threat


@pytest.mark.parametrize("events", [0, 1, 7, 200])
def test_the_limit_of_a_count_is_the_least_that_makes_it_unlikely(events: int) -> None:
    limit = count_at_most(events)
    assert poisson.cdf(events, limit) == pytest.approx(0.05)


def test_the_second_half_is_counted_along_the_search_of_each_example() -> None:
    # Ten passes for each of four that stand, and two that fell after 2 and 8.
    spent = torch.tensor([10.0, 2, 10, 10, 8, 10]).double()
    fallen = torch.tensor([False, True, False, False, True, False])
    # Half of the 50 passes are made once all have got 4.6, the one that fell first but 2.
    assert later_half(spent, fallen) == Effort(passes=25, broken=1, more_at_most=4)
    many = later_half(torch.cat([spent, spent + 1]), torch.cat([fallen, torch.zeros(6).bool()]))
    assert many == Effort(passes=53, broken=1, more_at_most=count_at_most(1))


def test_the_rate_of_a_search_that_goes_on_alike_is_what_it_says() -> None:
    """Examples that fall at one rate for ever: the limit holds what as much again finds."""
    generator = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(200):
        life = torch.empty(300).exponential_(1 / 400, generator=generator).double()
        found = later_half(life.clamp_max(100), life < 100)
        assert found is not None
        # Every pass at an example that stands breaks it with probability 1 / 400.
        held += found.more_at_most >= found.passes / 400
    assert 180 <= held < 200


@pytest.mark.parametrize(
    ("spent", "fallen"),
    [([3.0, 3.0], [True, True]), ([3.0, float("nan")], [False, False]), ([], [])],
)
def test_nothing_is_told_where_nothing_stands_or_nobody_knows(
    spent: list[float], fallen: list[bool]
) -> None:
    assert later_half(torch.tensor(spent).double(), torch.tensor(fallen).bool()) is None


@pytest.mark.usefixtures("few_draws")
def test_a_report_tells_it_for_its_plan_alone(model: CNN) -> None:
    attacks: list[EvasionAttack[Any]] = [FGSM(), PGD(steps=10)]
    report = evaluate(model, digits(), threat(), attacks=attacks, batch_size=8)
    more = evaluate(
        model, digits(), threat(), attacks=attacks, batch_size=3, eps_sweep=[0.1], reference="fgsm"
    )
    found = report.curves.effort
    assert found is not None
    assert found == more.curves.effort
    assert abs(2 * found.passes - (report.cost.forward + report.cost.backward)) <= 40 - 2
    assert 0 < found.broken < sum(row.broken for row in report.attacks)
    few = replace(load("linf-decision"), budget=Budget(queries=30))
    labels = evaluate(model, digits(6), few, attacks=[RayS()])
    assert labels.curves.effort is None

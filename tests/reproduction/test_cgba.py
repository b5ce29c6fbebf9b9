"""What parts of CGBA-H are worth on Fashion-MNIST, targeted: 60 images, 500 queries each."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustkit import data
from tests.benchmarks.cgba_targeted import OTHERS, PLAN, Arm, searched
from tests.benchmarks.crossmax_members import Size, member
from tests.benchmarks.keeping import folder

QUERIES = (100, 500)


@pytest.fixture(scope="module")
def victim() -> tuple[nn.Module, Tensor]:
    """A small network, and images."""
    with folder() as place:
        net = member(place, "standard", 0, Size(train=8000, epochs=3))
    return net, data.load("fashion-mnist", n=60).inputs(slice(None))


@pytest.fixture(scope="module")
def plan(victim: tuple[nn.Module, Tensor]) -> Tensor:
    """Distances of the targeted plan."""
    return searched(*victim, PLAN, seed=0, budgets=QUERIES)


def at_most(plan: Tensor, victim: tuple[nn.Module, Tensor], other: Arm) -> list[float]:
    """The plan's distance in units of another search's, for each number of queries: the geometric
    mean over images, and the upper end of its 95 % interval, of a paired bootstrap."""
    ratio = (plan / searched(*victim, other, seed=0, budgets=QUERIES)).log().numpy()
    picks = np.random.default_rng(0).integers(0, len(ratio), (4000, len(ratio)))
    upper: list[float] = np.exp(np.quantile(ratio[picks].mean(1), 0.975, axis=0)).tolist()
    return upper


@pytest.mark.slow
def test_comparing_several_starts_pays_for_itself(
    plan: Tensor, victim: tuple[nn.Module, Tensor]
) -> None:
    assert bool(plan.isfinite().all())
    assert bool(torch.all(plan[:, 1] <= plan[:, 0]))
    early, late = at_most(plan, victim, OTHERS["one start at random"])
    assert early < 1
    assert late < 1


@pytest.mark.slow
def test_keeping_only_the_patches_that_a_start_needs_pays_for_itself(
    plan: Tensor, victim: tuple[nn.Module, Tensor]
) -> None:
    early, late = at_most(plan, victim, OTHERS["a whole start"])
    assert early < 1
    assert late < 1.05


@pytest.mark.slow
def test_steps_of_few_frequencies_lead_nearer_than_those_of_all(
    plan: Tensor, victim: tuple[nn.Module, Tensor]
) -> None:
    early, late = at_most(plan, victim, OTHERS["full dimension"])
    assert early < 1
    assert late < 1

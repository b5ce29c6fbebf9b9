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
@pytest.mark.parametrize("other", ["one start at random", "a whole start", "full dimension"])
def test_each_part_pays_for_itself(
    other: str, plan: Tensor, victim: tuple[nn.Module, Tensor]
) -> None:
    """The comparison of several starts, the patches that are put back, the low frequencies."""
    assert bool(plan.isfinite().all())
    assert bool(torch.all(plan[:, 1] <= plan[:, 0]))
    early, late = at_most(plan, victim, OTHERS[other])
    assert early < 1
    assert late < 1

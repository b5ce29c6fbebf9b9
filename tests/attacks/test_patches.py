"""Of a start in another class only the patches are kept that its class hangs on."""

import pytest
import torch
from torch import Tensor, nn

from robustkit.attacks import CGBA, CGBAH
from robustkit.attacks._boundary import Hunt
from robustkit.attacks._patches import put_back
from robustkit.attacks._turns import take_turns
from robustkit.randomness import Streams
from robustkit.threat_models import Access, LpBall, Meter, Objective, grant
from tests.attacks.conftest import Victims
from tests.attacks.decisions import Attacked, attacked


class Corner(nn.Module):
    """Class 1 where the first pixels are bright, whatever the rest is."""

    def __init__(self) -> None:
        super().__init__()
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        bright = inputs[:, :, :2, :2].flatten(1).mean(1) - 0.5
        return torch.stack([-bright, bright], dim=1)


def put(
    clean: Tensor, point: Tensor, *, side: int = 4, queries: int = 40
) -> tuple[Hunt, list[int]]:
    """Put patches of the clean images back into points of class 1; what each has paid."""
    streams = Streams.of(seed=0, ids=torch.arange(len(clean)))
    view = grant(Meter(Corner(), streams, width=4, queries=queries), Access.DECISION)
    wanted = Objective(torch.zeros(len(clean), dtype=torch.int64))
    ball = LpBall(norm="l2", radius=0.5)
    hunt = Hunt.begin(view, clean, wanted, ball, streams, queries=queries)
    hunt.point, hunt.distance = point.clone(), ball.distance(clean, point)
    take_turns(view, [hunt], lambda one: put_back(one, side=side))
    return hunt, view.spent.tolist()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 12), (1, 3, 9), (2, 2, 2)])
def test_only_the_patch_that_decides_stays_changed(shape: tuple[int, int, int]) -> None:
    clean, point = torch.zeros(3, *shape), torch.ones(3, *shape)
    hunt, spent = put(clean, point)
    changed = (hunt.point != clean).any(1)
    assert bool(changed[:, :2, :2].any())
    down, across = (min(4, size) for size in shape[1:])
    assert spent == [down * across] * 3
    # What no patch shares with the corner is the clean image's.
    high, wide = 1 + -(-shape[1] // down), 1 + -(-shape[2] // across)
    assert not bool(changed[:, high:].any() | changed[:, :, wide:].any())
    assert hunt.distance.tolist() == pytest.approx(
        (hunt.point - clean).flatten(1).norm(dim=1).tolist()
    )


def test_what_is_most_changed_comes_first_and_what_is_not_is_not_asked_about() -> None:
    clean = torch.zeros(2, 1, 8, 8)
    point = clean.clone()
    point[:, :, :2, :2] = 1
    point[0, :, 4:6, 4:6] = 0.5
    point[1, :, 6:, 6:] = 0.25
    point[1, :, 4:6, :2] = 0.75
    hunt, spent = put(clean, point)
    assert spent == [2, 3]
    assert int((hunt.point != clean).sum()) == 2 * 4
    cut, spent = put(clean, point, queries=2)
    assert spent == [2, 2]
    # The corner was asked about first and the darkest patch never.
    assert [int((image != 0).sum()) for image in cut.point] == [4, 8]


@pytest.mark.parametrize("side", [0, 1])
def test_no_patches_or_a_whole_image_change_nothing(side: int) -> None:
    point = torch.ones(2, 1, 6, 6)
    hunt, spent = put(torch.zeros_like(point), point, side=side)
    assert spent == [side] * 2
    assert torch.equal(hunt.point, point)


@pytest.mark.parametrize("kind", [CGBA, CGBAH])
def test_a_targeted_search_is_nearer_with_them_and_another_unchanged(
    kind: type[CGBA] | type[CGBAH], digits: Victims
) -> None:
    targets = digits.labels.roll(1)
    there = targets != digits.labels
    clean, labels, targets = digits.inputs[there], digits.labels[there], targets[there]
    starts = digits.inputs.roll(1, 0)[there][:, None]

    def run(patches: int, *, targeted: bool) -> Attacked:
        return attacked(
            kind(patches=patches),
            digits.model,
            clean,
            labels,
            queries=60,
            targets=targets if targeted else None,
            starts=starts if targeted else None,
        )

    few, whole = (run(patches, targeted=True).distance for patches in (4, 0))
    assert float((few / whole).log().mean()) < -0.03
    assert torch.equal(run(4, targeted=False).points, run(0, targeted=False).points)

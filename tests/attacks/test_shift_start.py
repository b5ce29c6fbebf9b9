"""APGD starts where all values are shifted alike, and finds there what gradients hide elsewhere."""

import pytest
import torch
from torch import Tensor, nn

from robustkit.attacks import APGD
from robustkit.attacks.rows import Rows
from robustkit.attacks.steps import even_shift
from robustkit.randomness import Streams
from robustkit.threat_models import Access, LpBall, Meter, Objective, grant
from robustkit.threat_models.perturbation import Norm

CLEAN = torch.full((2, 3, 4, 4), 0.5)


def first_points(attack: APGD, ball: LpBall) -> list[Tensor]:
    """Where the attempts at two examples begin."""
    ids = torch.arange(2)
    streams = Streams.of(seed=0, ids=ids)
    rows = Rows.first(CLEAN, Objective(torch.zeros(2, dtype=torch.int64)), streams, ids, ball)
    points = []
    for _ in range(attack.attempts):
        points.append(attack.begin(rows).point)
        rows = rows.next_attempt()
    return points


@pytest.mark.parametrize(
    ("norm", "radius", "shift"), [("linf", 0.1, 0.1), ("l2", 0.6, 0.0866), ("l1", 9.6, 0.2)]
)
def test_the_first_attempt_is_brighter_and_the_second_darker(
    norm: Norm, radius: float, shift: float
) -> None:
    ball = LpBall(norm=norm, radius=radius)
    attack = APGD(shift_start=True, restarts=3)
    brighter, darker, random = first_points(attack, ball)
    torch.testing.assert_close(brighter - CLEAN, torch.full_like(CLEAN, shift), atol=1e-4, rtol=0)
    torch.testing.assert_close(darker - CLEAN, torch.full_like(CLEAN, -shift), atol=1e-4, rtol=0)
    assert torch.equal(random, first_points(APGD(restarts=3), ball)[2])
    assert torch.equal(
        first_points(APGD(shift_start=True, restarts=3, random_start=False), ball)[2], CLEAN
    )
    assert even_shift(ball, CLEAN) == pytest.approx(shift, abs=1e-4)


def test_every_aim_is_attacked_from_both_ends() -> None:
    attack = APGD(shift_start=True, targets=2, ranking="nearest", restarts=2)
    signs = [
        float((point - CLEAN).sign().mean())
        for point in first_points(attack, LpBall(norm="linf", radius=0.1))
    ]
    assert signs == [1, 1, -1, -1]


def test_a_large_ball_ends_at_the_range_of_values() -> None:
    brighter, darker = first_points(
        APGD(shift_start=True, restarts=2), LpBall(norm="linf", radius=0.8)
    )
    assert torch.equal(brighter, torch.ones_like(CLEAN))
    assert torch.equal(darker, torch.zeros_like(CLEAN))


class Moat(nn.Module):
    """Class 0 until the mean has moved far; near the clean image the slope points the other way."""

    def forward(self, inputs: Tensor) -> Tensor:
        moved = inputs.flatten(1).mean(1) - 0.5
        lead = torch.where(moved < 0.05, -1 - 5 * moved, 50 * (moved - 0.08))
        return torch.stack([torch.zeros_like(lead), lead], dim=1)


@pytest.mark.parametrize(("attack", "breaks"), [(APGD(), False), (APGD(shift_start=True), True)])
def test_it_gets_over_a_slope_that_points_back(attack: APGD, breaks: bool) -> None:
    ids = torch.arange(2)
    meter = Meter(Moat().eval(), Streams.of(seed=0, ids=ids))
    points = attack.run(
        grant(meter, Access.GRADIENT),  # type: ignore[arg-type]
        CLEAN,
        Objective(torch.zeros(2, dtype=torch.int64)),
        LpBall(norm="linf", radius=0.1),
        streams=Streams.of(seed=0, ids=ids),
    )
    assert bool((Moat()(points).argmax(1) == 1).all()) is breaks

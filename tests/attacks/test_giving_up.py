"""APGD gives an attempt up that cannot get there, and no other."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from robustkit.attacks import APGD
from robustkit.attacks._checkpoints import hopeless
from robustkit.threat_models import Access, LpBall, Meter, grant
from tests.attacks.conftest import Victims
from tests.oracles import Constant

STEPS, STRETCH = 20, 4


def given_up_at(*margins: list[float]) -> list[int | None]:
    """The step at which each row is given up, if it is; all share a batch."""
    nothing = torch.zeros(len(margins))
    state: Any = SimpleNamespace(outset=nothing, lead=nothing, lead_before=nothing)
    planned = torch.full((len(margins),), STEPS)
    ends: list[int | None] = [None] * len(margins)
    for step in range(STEPS):
        state.step = torch.full_like(planned, step)
        here = torch.tensor([row[step] for row in margins])
        for row in hopeless(state, here, planned, stretch=STRETCH).nonzero()[:, 0].tolist():
            ends[row] = step if ends[row] is None else ends[row]
    return ends


def climbing(pace: float) -> list[float]:
    return [-10.0 + pace * step for step in range(STEPS)]


def test_who_climbs_too_slowly_is_given_up_at_the_second_look() -> None:
    assert given_up_at(climbing(0.55), climbing(0.45), climbing(0.1)) == [None, 8, 8]
    # This one would end where a twentieth of its lead is left.
    assert given_up_at(climbing(0.485)) == [None]


def test_who_stands_still_is_given_up_when_that_is_seen() -> None:
    stalled = [-10.0 + min(step, 10) for step in range(STEPS)]
    stalled = [value - 3.0 for value in stalled]
    assert given_up_at(stalled) == [16]
    # Whatever the margin does below its highest value is no progress.
    assert given_up_at([value - 3 * (step % 2) for step, value in enumerate(stalled)]) == [16]


def test_who_has_not_moved_the_model_is_given_all_steps() -> None:
    falling = [-10.0 - step for step in range(STEPS)]
    late = [-10.0] * 15 + [1.0] * 5
    assert given_up_at([-10.0] * STEPS, falling, late, [float("nan")] * STEPS) == [None] * 4


def test_an_attempt_forgets_the_one_before() -> None:
    state: Any = SimpleNamespace(
        step=torch.tensor([0]),
        outset=torch.tensor([-9.0]),
        lead=torch.tensor([-1.0]),
        lead_before=torch.tensor([-1.0]),
    )
    assert not hopeless(state, torch.tensor([-8.0]), torch.tensor([STEPS]), stretch=STRETCH).any()
    assert (state.outset, state.lead, state.lead_before) == (-8.0, -8.0, -torch.inf)


def attacked(attack: APGD, victims: Victims, radius: float) -> tuple[Tensor, Tensor]:
    """Which are broken, and how many passes forward each has cost."""
    meter = Meter(victims.model, victims.streams, width=16)
    view: Any = grant(meter, Access.GRADIENT)
    ball = LpBall(norm="linf", radius=radius)
    points = attack.run(view, victims.inputs, victims.objective, ball, streams=victims.streams)
    with torch.no_grad():
        return victims.model(points).argmax(1) != victims.labels, meter.ledger.forward


@pytest.mark.parametrize("radius", [0.02, 0.1])
@pytest.mark.parametrize(
    "attack",
    [
        APGD(steps=40),
        APGD(steps=40, loss="margin", restarts=2),
        APGD(steps=40, loss="margin", targets=2, ranking="nearest"),
    ],
    ids=["cross-entropy", "restarts", "targets"],
)
def test_half_of_the_passes_find_what_all_find(
    digits: Victims, attack: APGD, radius: float
) -> None:
    whole, dear = attacked(attack, digits, radius)
    short, cheap = attacked(dataclasses.replace(attack, give_up=0.1), digits, radius)
    assert torch.equal(whole, short)
    assert bool((cheap <= dear).all())
    assert float(cheap[~whole].sum()) < 0.5 * float(dear[~whole].sum())


def test_a_model_without_slopes_is_searched_to_the_end(digits: Victims) -> None:
    flat = dataclasses.replace(digits, model=Constant(), labels=torch.zeros_like(digits.labels))
    broken, passes = attacked(APGD(steps=20, give_up=0.1), flat, 0.1)
    assert not bool(broken.any())
    assert set(passes.tolist()) == {20}

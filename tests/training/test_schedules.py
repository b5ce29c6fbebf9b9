"""Schedules: known values, torch's own as references, and what the source of AccelAT does."""

import math

import pytest
import torch

from robustkit.errors import BadInput
from robustkit.training import AccuracyGradient, Constant, Cosine, OneCycle, Plateau, Schedule, Step


def factors(schedule: Schedule, epochs: int, steps: int = 1) -> list[float]:
    return [schedule.factor(number / steps, epochs, []) for number in range(epochs * steps)]


def by_torch(
    kind: type[torch.optim.lr_scheduler.LRScheduler], count: int, **options: object
) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = kind(optimizer, **options)  # type: ignore[arg-type]
    rates = []
    for _ in range(count):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_constant() -> None:
    assert factors(Constant(), 3) == [1, 1, 1]


def test_steps_are_those_of_torch() -> None:
    expected = by_torch(torch.optim.lr_scheduler.MultiStepLR, 9, milestones=[3, 6], gamma=0.1)
    assert factors(Step(milestones=(3, 6)), 9) == pytest.approx(expected)


def test_the_cosine_is_that_of_torch() -> None:
    expected = by_torch(torch.optim.lr_scheduler.CosineAnnealingLR, 12, T_max=12)
    assert factors(Cosine(), 4, steps=3) == pytest.approx(expected)


def test_the_cosine_warms_up() -> None:
    found = factors(Cosine(warmup=3), 10)
    assert found[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert found[3:] == sorted(found[3:], reverse=True)


def test_one_cycle_is_that_of_torch() -> None:
    expected = by_torch(
        torch.optim.lr_scheduler.OneCycleLR,
        100,
        max_lr=1.0,
        total_steps=101,
        pct_start=0.31,
        cycle_momentum=False,
    )
    found = [OneCycle(peak=0.3).factor(number, 100, []) for number in range(100)]
    assert found == pytest.approx(expected, abs=0.01)
    assert OneCycle(peak=0.3).factor(30, 100, []) == 1.0


def test_one_cycle_in_straight_lines() -> None:
    found = [OneCycle(peak=0.5, start=0, end=0, linear=True).factor(n, 8, []) for n in range(8)]
    assert found == pytest.approx([0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25])


def cuts(schedule: AccuracyGradient, scores: list[float]) -> list[int]:
    """The epochs after which the rate is cut."""
    found = [schedule.factor(n, len(scores), scores[:n]) for n in range(len(scores) + 1)]
    return [n for n in range(1, len(found)) if found[n] < found[n - 1]]


def test_flat_accuracy_is_cut_at_the_seventh_epoch_and_every_fifth_from_there() -> None:
    schedule = AccuracyGradient()
    assert cuts(schedule, [0.5] * 50) == [7, 12, 17, 22, 27, 32, 37, 42, 47]
    assert schedule.factor(50, 50, [0.5] * 50) == pytest.approx(0.8**9)


def test_the_slope_decides() -> None:
    rising = [0.3 + 0.0051 * n for n in range(50)]
    falling = [0.9 - 0.01 * n for n in range(50)]
    slow = [0.3 + 0.0049 * n for n in range(50)]
    assert cuts(AccuracyGradient(), rising) == []
    assert cuts(AccuracyGradient(), slow)[0] == 7
    assert cuts(AccuracyGradient(), falling)[0] == 7


def test_the_rate_has_a_floor() -> None:
    assert AccuracyGradient(lowest=0.5).factor(0, 1, [0.5] * 50) == 0.5


def test_a_plateau_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(60, generator=generator).cumsum(0).clamp_max(9).tolist()
    scores += [score / 20 for score in scores]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, "max", factor=0.5, patience=3, threshold=0.01, threshold_mode="abs", eps=0
    )
    mine = Plateau(patience=3, threshold=0.01, cut=0.5)
    for number, score in enumerate(scores, start=1):
        reference.step(score)
        expected = optimizer.param_groups[0]["lr"]
        assert mine.factor(0, 1, scores[:number]) == pytest.approx(expected)
    assert not math.isclose(mine.factor(0, 1, scores), 1.0)


def test_values_that_mean_nothing_are_refused() -> None:
    for wrong in (
        lambda: Step(milestones=(1,), cut=0),
        lambda: OneCycle(peak=1.0),
        lambda: AccuracyGradient(window=0),
        lambda: AccuracyGradient(cut=1.5),
    ):
        with pytest.raises(BadInput):
            wrong()

"""The set of filtered images: nothing filtered is refused, and little else is taken."""

import dataclasses
import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from robustkit.errors import BadInput
from robustkit.randomness import Streams
from robustkit.report import ThreatFacts
from robustkit.report.words import threat as in_words
from robustkit.threat_models import Convolutions, LpBall, PerturbationSet, load


def images(n: int = 6, shape: tuple[int, ...] = (3, 9, 12), *, seed: int = 0) -> Tensor:
    """(n, *shape): bytes, divided by 255."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, *shape), generator=generator).float() / 255


def filtered(clean: Tensor, taps: Tensor) -> Tensor:
    """Each image under its own filter, (n, k, k), in float64."""
    n, channels, height, width = clean.shape
    rows = clean.double().reshape(1, n * channels, height, width)
    weights = taps.double().repeat_interleave(channels, 0)[:, None]
    done = F.conv2d(rows, weights, padding=taps.shape[-1] // 2, groups=n * channels)
    return done.reshape(clean.shape)


def test_it_keeps_its_promises_to_the_type_checker() -> None:
    allowed: PerturbationSet = Convolutions(kernel=3)
    assert isinstance(allowed, PerturbationSet)
    assert (allowed.norm, allowed.radius, allowed.low, allowed.high) == (
        "convolution",
        1 / 255,
        0.0,
        1.0,
    )


@given(
    seed=st.integers(0, 2**32 - 1),
    kernel=st.sampled_from((1, 3, 5, 9)),
    rounding=st.sampled_from((torch.floor, torch.round, torch.ceil)),
)
@settings(max_examples=40)
def test_filtered_scaled_and_rounded_images_belong(
    seed: int, kernel: int, rounding: object
) -> None:
    """Whatever the taps, the scale and the rounding: that the residual is bounded is a theorem."""
    generator = torch.Generator().manual_seed(seed)
    clean = images(seed=seed % 1000)
    taps = torch.rand(len(clean), kernel, kernel, generator=generator) ** 3
    sums = filtered(clean, taps)
    levels = rounding(255 * sums / sums.amax((1, 2, 3), keepdim=True))  # type: ignore[operator]
    published = levels.clamp_max(255).float() / 255
    assert bool(Convolutions(kernel=kernel).contains(clean, published).all())


def test_every_single_tap_is_a_shift_that_belongs() -> None:
    clean = images(9)
    taps = torch.eye(9).reshape(9, 3, 3)
    shifted = filtered(clean, taps).float()
    distances = Convolutions(kernel=3).distance(clean, shifted)
    assert float(distances.max()) < 1e-7
    for row, (top, left) in enumerate(product(range(3), repeat=2)):
        y, x = 4 + 1 - top, 5 + 1 - left
        assert torch.equal(shifted[row, :, y, x], clean[row, :, 4, 5])


def test_images_that_are_no_filtered_ones_do_not_belong() -> None:
    clean = images(5)
    noise = images(5, seed=1)
    allowed = Convolutions(kernel=3)
    others = (
        (clean + 8 / 255 * torch.sign(noise - 0.5)).clamp(0, 1),  # additive noise
        clean.flip(3),
        1 - clean,
        clean.roll(2, 3),  # a shift that 3 x 3 does not reach
        clean.square(),
        torch.stack([clean[:, 0], clean[:, 1], clean[:, 2].roll(1, 2)], 1),  # not one filter
    )
    for other in others:
        assert allowed.contains(clean, other).tolist() == [False] * 5


def test_a_larger_kernel_holds_what_a_smaller_one_holds() -> None:
    clean = images()
    five = filtered(clean, torch.rand(6, 5, 5)).float()
    five = five / five.amax((1, 2, 3), keepdim=True)
    assert not bool(Convolutions(kernel=3).contains(clean, five).any())
    assert bool(Convolutions(kernel=5).contains(clean, five).all())
    assert bool(Convolutions(kernel=7).contains(clean, five).all())


def test_the_distance_is_what_least_squares_leaves() -> None:
    clean, changed = images(4), images(4, seed=1)
    distances = Convolutions(kernel=3).distance(clean, changed)
    assert distances.dtype == torch.float64
    for row in range(4):
        padded = F.pad(clean[row].double(), (1, 1, 1, 1))
        columns = [padded[:, i : i + 9, j : j + 12].flatten() for i in range(3) for j in range(3)]
        matrix, wanted = torch.stack(columns, 1), changed[row].double().flatten()[:, None]
        solution = torch.linalg.lstsq(matrix, wanted).solution
        rest = (wanted - matrix @ solution).square().mean().sqrt()
        assert float(distances[row]) == pytest.approx(float(rest), rel=1e-9)


def test_black_and_flat_images_have_no_unique_filter_and_are_judged_all_the_same() -> None:
    black, flat = torch.zeros(1, 1, 8, 8), torch.full((1, 1, 8, 8), 0.5)
    allowed = Convolutions(kernel=3)
    assert allowed.contains(black, black).tolist() == [True]
    assert allowed.contains(black, flat).tolist() == [False]
    assert allowed.contains(flat, flat).tolist() == [True]
    assert allowed.contains(flat, images(1, (1, 8, 8))).tolist() == [False]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1.0001, -0.0001])
def test_what_is_no_number_or_out_of_range_is_never_allowed(value: float) -> None:
    clean = images(2)
    changed = clean.clone()
    changed[0, 2, 3, 5] = value
    allowed = Convolutions(kernel=3)
    assert allowed.contains(clean, changed).tolist() == [False, True]
    assert allowed.in_box(changed).tolist() == [False, True]
    if not math.isfinite(value):
        assert allowed.distance(clean, changed).tolist()[0] == math.inf


def test_points_that_are_brought_back_belong_and_points_that_belong_stay(
    device: torch.device,
) -> None:
    clean, far = images().to(device), images(seed=1).to(device)
    allowed = Convolutions(kernel=3)
    projected = allowed.project(clean, far)
    assert bool(allowed.contains(clean, projected).all())
    again = allowed.project(clean, projected)
    torch.testing.assert_close(again, projected, rtol=0, atol=1e-5)
    # Nearer than the clean image, from where it starts.
    assert bool(((projected - far).norm() < (clean - far).norm()).all())


def test_samples_belong_and_do_not_depend_on_neighbours(device: torch.device) -> None:
    clean = images().to(device)
    streams = Streams.of(seed=0, ids=torch.arange(6, device=device))
    allowed = Convolutions(kernel=3)
    drawn = allowed.sample(clean, streams=streams)
    assert bool(allowed.contains(clean, drawn).all())
    assert not torch.equal(drawn, clean)
    alone = allowed.sample(clean[4:5], streams=streams.take([4]))
    torch.testing.assert_close(alone, drawn[4:5], rtol=0, atol=1e-6)


def test_memory_does_not_grow_with_the_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    from robustkit.threat_models import convolutions

    clean, changed = images(7), images(7, seed=1)
    allowed = Convolutions(kernel=3)
    whole = allowed.distance(clean, changed)
    monkeypatch.setattr(convolutions, "_WORKSPACE", 1)
    assert len(list(allowed._parts(clean))) == 7
    torch.testing.assert_close(allowed.distance(clean, changed), whole, rtol=1e-12, atol=0)


def test_no_images_are_fine() -> None:
    nobody = images(3)[:0]
    allowed = Convolutions(kernel=3)
    assert allowed.contains(nobody, nobody).tolist() == []
    assert allowed.project(nobody, nobody).shape == nobody.shape
    streams = Streams.of(seed=0, ids=torch.arange(0))
    assert allowed.sample(nobody, streams=streams).shape == nobody.shape


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"kernel": 4}, "odd number"),
        ({"kernel": 0}, "odd number"),
        ({"kernel": -3}, "odd number"),
        ({"kernel": 3, "low": 0.1}, "must hold 0"),
        ({"kernel": 3, "low": 0.0, "high": 0.0}, "and more"),
    ],
)
def test_sets_that_mean_nothing_are_refused(arguments: dict[str, float], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        Convolutions(**arguments)  # type: ignore[arg-type]


def test_a_report_can_state_the_threat() -> None:
    facts = ThreatFacts.of(load("unlearnable"))
    assert facts.perturbation is not None
    assert dict(facts.perturbation.options) == {"kernel": 3}
    said = in_words(facts)
    assert "before training" in said
    assert "3 x 3" in said
    assert "100.0 % of the training data" in said
    assert "clean data" in said
    assert "model's labels" not in said


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("unlearnable", Convolutions(kernel=3)),
        ("unlearnable-linf", LpBall(norm="linf", radius=8 / 255)),
        ("unlearnable-l2", LpBall(norm="l2", radius=1.0)),
    ],
)
def test_the_presets_share_everything_but_the_set(name: str, allowed: PerturbationSet) -> None:
    threat = load(name)
    assert threat.perturbation == allowed
    assert dataclasses.replace(
        threat, name="unlearnable", perturbation=Convolutions(kernel=3)
    ) == load("unlearnable")
    assert (threat.stage.value, threat.goal.name) == ("training", "availability")
    assert (threat.budget.poison_rate, threat.budget.may_relabel) == (1.0, False)

"""Perturbation sets: membership to the last bit, distances, and where samples fall."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from robustkit.errors import BadInput
from robustkit.randomness import Streams
from robustkit.threat_models import LpBall, Patch, PerturbationSet
from robustkit.threat_models.perturbation import NORMS, Norm

SETS: tuple[LpBall | Patch, ...] = (
    LpBall(norm="linf", radius=0.1),
    LpBall(norm="l2", radius=0.7),
    LpBall(norm="l1", radius=2.5),
    LpBall(norm="l0", radius=4.0),
    Patch(height=2, width=3),
)
every_set = pytest.mark.parametrize("allowed", SETS, ids=lambda allowed: str(allowed.norm))


def grey(shape: tuple[int, ...] = (2, 3, 4, 6), device: torch.device | str = "cpu") -> Tensor:
    return torch.full(shape, 0.5, device=device)


def moved(norm: Norm, length: float, size: int = 72) -> Tensor:
    """(1, 3, 4, 6): grey, changed by exactly `length` in the norm, spread over all values."""
    share = {"linf": 1.0, "l2": size**-0.5, "l1": 1 / size, "l0": math.nan}[norm]
    changed: Tensor = (grey((1, 3, 4, 6)).double() + share * length).float()
    return changed


@every_set
def test_every_set_keeps_its_promises_to_the_type_checker(allowed: PerturbationSet) -> None:
    assert isinstance(allowed, PerturbationSet)


@every_set
def test_the_clean_image_is_allowed_and_at_distance_nought(
    allowed: PerturbationSet, device: torch.device
) -> None:
    clean = torch.rand(3, 3, 4, 6).to(device)
    assert bool(allowed.contains(clean, clean).all())
    assert allowed.distance(clean, clean).tolist() == [0.0] * 3
    assert allowed.distance(clean, clean).dtype == torch.float64


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_membership_ends_right_behind_the_radius(norm: Norm) -> None:
    radius = {"linf": 8 / 255, "l2": 0.5, "l1": 2.0}[norm]
    allowed = LpBall(norm=norm, radius=radius)
    clean = grey((1, 3, 4, 6))
    assert bool(allowed.contains(clean, moved(norm, radius)).all())
    assert not bool(allowed.contains(clean, moved(norm, radius + 1e-5)).any())
    assert not bool(allowed.contains(clean, moved(norm, -radius - 1e-5)).any())
    # One value alone counts as much as many.
    lone = clean.clone()
    lone[0, 1, 2, 3] += min(radius, 0.4)
    assert bool(allowed.contains(clean, lone).all()) == (radius >= 0.0)
    lone[0, 1, 2, 3] = 0.5 + radius + 1e-5
    assert not bool(allowed.contains(clean, lone).any())


def test_the_slack_is_what_the_design_grants() -> None:
    eps = torch.finfo(torch.float32).eps
    clean = torch.zeros(1, 3, 4, 6)
    for norm, slack in (("linf", 4 * eps), ("l2", 4 * eps * 72**0.5), ("l1", 4 * eps * 72**0.5)):
        allowed = LpBall(norm=norm, radius=0.0)  # type: ignore[arg-type]
        for factor, inside in ((0.99, True), (1.01, False)):
            changed = clean.clone()
            changed[0, 0, 0, 0] = slack * factor
            assert bool(allowed.contains(clean, changed)) is inside


def test_l0_counts_pixels_and_forgives_nothing() -> None:
    clean = grey()
    allowed = LpBall(norm="l0", radius=2)
    changed = clean.clone()
    changed[:, :, 0, 0] = 1.0  # three channels of one pixel
    changed[:, 1, 3, 5] = float(np.nextafter(np.float32(0.5), np.float32(1)))
    assert allowed.distance(clean, changed).tolist() == [2.0, 2.0]
    assert bool(allowed.contains(clean, changed).all())
    changed[0, 0, 1, 1] = 0.0
    assert allowed.contains(clean, changed).tolist() == [False, True]


@every_set
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_no_numbers_are_never_allowed(
    allowed: LpBall | Patch, value: float, device: torch.device
) -> None:
    clean = grey(device=device)
    changed = clean.clone()
    changed[0, 2, 3, 5] = value
    assert allowed.contains(clean, changed).tolist() == [False, True]
    assert allowed.distance(clean, changed).tolist() == [math.inf, 0.0]
    assert allowed.in_box(changed).tolist() == [False, True]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_not_even_an_infinite_ball_in_an_infinite_range_holds_them(
    norm: Norm, value: float
) -> None:
    allowed = LpBall(norm=norm, radius=math.inf, low=-math.inf, high=math.inf)
    changed = grey()
    changed[0, 0, 0, 0] = value
    assert allowed.contains(grey(), changed).tolist() == [False, True]


@every_set
def test_inputs_that_carry_a_graph_are_projected_like_others(allowed: LpBall | Patch) -> None:
    changed = grey() + torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    with_graph = allowed.project(grey(), changed.clone().requires_grad_())
    assert torch.equal(with_graph, allowed.project(grey(), changed))


@every_set
@pytest.mark.parametrize("end", [0.0, 1.0])
def test_one_bit_outside_the_range_is_outside(allowed: LpBall | Patch, end: float) -> None:
    clean = torch.full((1, 3, 4, 6), end)
    changed = clean.clone()
    changed[0, 1, 2, 3] = float(np.nextafter(np.float32(end), np.float32(end * 4 - 2)))
    assert bool(allowed.contains(clean, clean).all())
    assert not bool(allowed.contains(clean, changed).any())


@given(seed=st.integers(0, 2**32 - 1), norm=st.sampled_from(NORMS))
@settings(max_examples=60)
def test_distances_are_distances(seed: int, norm: Norm) -> None:
    """Symmetric, positive for what differs, triangle inequality, homogeneous but for l0."""
    generator = torch.Generator().manual_seed(seed)
    a, b, c = torch.rand(3, 4, 2, 3, 5, generator=generator)
    between = LpBall(norm=norm, radius=1.0).distance
    assert torch.equal(between(a, b), between(b, a))
    assert bool((between(a, b) > 0).all())
    assert bool((between(a, c) <= between(a, b) + between(b, c) + 1e-12).all())
    if norm != "l0":
        half = (a.double() + b.double()) / 2
        torch.testing.assert_close(between(a, half) * 2, between(a, b))


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_distances_agree_with_numpy(seed: int) -> None:
    a, b = torch.rand(2, 1, 3, 4, 6, generator=torch.Generator().manual_seed(seed))
    change = (b.double() - a.double()).numpy().ravel()
    for norm, order in (("linf", np.inf), ("l2", 2), ("l1", 1)):
        ball = LpBall(norm=norm, radius=1.0)  # type: ignore[arg-type]
        assert ball.distance(a, b).item() == pytest.approx(np.linalg.norm(change, order))


def test_distances_do_not_lose_small_changes_beside_large_ones() -> None:
    """In float32 the second term of 1 + 1e-9 disappears."""
    clean = torch.zeros(1, 1, 1, 2)
    changed = torch.tensor([[[[1.0, 1e-9]]]])
    distance = LpBall(norm="l1", radius=1.0).distance(clean, changed)
    assert float(distance) - 1.0 == pytest.approx(1e-9, rel=1e-3)


@pytest.mark.parametrize("image", ["grey", "on the borders"])
@every_set
def test_samples_are_allowed(allowed: LpBall | Patch, image: str, device: torch.device) -> None:
    clean = grey((50, 3, 4, 6), device)
    if image != "grey":
        clean = clean.new_tensor([0.0, 1.0]).repeat(50 * 36).reshape(50, 3, 4, 6)
    streams = Streams.of(seed=0, ids=torch.arange(50, device=device))
    drawn = allowed.sample(clean, streams=streams)
    assert drawn.shape == clean.shape
    assert drawn.dtype == clean.dtype
    assert bool(allowed.contains(clean, drawn).all())
    assert bool((allowed.distance(clean, drawn) > 0).all())
    assert torch.equal(drawn, allowed.sample(clean, streams=streams))
    alone = allowed.sample(clean[7:8], streams=streams.take([7]))
    assert torch.equal(alone, drawn[7:8])
    nobody = allowed.sample(clean[:0], streams=streams.take([]))
    assert nobody.shape == (0, 3, 4, 6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("radius", [0.0, 2.5, math.inf])
def test_samples_are_allowed_for_odd_radii(norm: Norm, radius: float) -> None:
    allowed = LpBall(norm=norm, radius=radius)
    clean = torch.rand(40, 1, 3, 5)
    drawn = allowed.sample(clean, streams=Streams.of(seed=0, ids=torch.arange(40)))
    assert bool(allowed.contains(clean, drawn).all())
    assert torch.equal(drawn, clean) is (radius == 0)


def sampled(norm: Norm, radius: float, n: int = 400) -> np.ndarray:
    """(n, 12) float64 changes of grey images of 12 values, far from the ends of the range."""
    clean = grey((n, 3, 2, 2))
    drawn = LpBall(norm=norm, radius=radius).sample(
        clean, streams=Streams.of(seed=5, ids=torch.arange(n))
    )
    return (drawn - clean).flatten(1).double().numpy()


def test_linf_samples_are_uniform_in_the_cube() -> None:
    changes = sampled("linf", 0.25)
    assert stats.kstest(changes.ravel(), stats.uniform(-0.25, 0.5).cdf).pvalue > 1e-3
    correlation = np.corrcoef(changes.T) - np.eye(12)
    assert np.abs(correlation).max() < 0.2


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_l2_and_l1_samples_are_uniform_in_the_ball(norm: Norm) -> None:
    """The radius to the power of the dimension is uniform; the direction has no preference."""
    changes = sampled(norm, 0.4)
    radii = np.linalg.norm(changes, {"l2": 2, "l1": 1}[norm], axis=1)
    assert stats.kstest((radii / 0.4) ** 12, stats.uniform.cdf).pvalue > 1e-3
    assert stats.binomtest(int((changes > 0).sum()), changes.size).pvalue > 1e-3
    correlation = np.corrcoef(changes.T) - np.eye(12)
    assert np.abs(correlation).max() < 0.2
    directions = changes / radii[:, None]
    share = np.abs(directions[:, 0])
    if norm == "l2":  # a squared coordinate of a point on the sphere is beta distributed
        assert stats.kstest(share**2, stats.beta(0.5, 5.5).cdf).pvalue > 1e-3
    else:  # absolute coordinates on the l1 sphere are uniform on the simplex
        assert stats.kstest(share, stats.beta(1, 11).cdf).pvalue > 1e-3


def test_l0_samples_choose_pixels_fairly_and_fill_them_uniformly() -> None:
    clean = grey((900, 2, 3, 3))
    drawn = LpBall(norm="l0", radius=3).sample(
        clean, streams=Streams.of(seed=5, ids=torch.arange(900))
    )
    touched = (drawn != clean).any(1).flatten(1)
    assert touched.sum(1).tolist() == [3] * 900
    assert stats.chisquare(touched.sum(0).numpy()).pvalue > 1e-3
    assert stats.kstest(drawn[drawn != clean].numpy(), stats.uniform.cdf).pvalue > 1e-3


def test_patch_samples_lie_anywhere_in_the_image() -> None:
    clean = grey((600, 1, 4, 5))
    allowed = Patch(height=2, width=3)
    drawn = allowed.sample(clean, streams=Streams.of(seed=5, ids=torch.arange(600)))
    assert allowed.distance(clean, drawn).tolist() == [6.0] * 600
    corner = (drawn != clean)[:, 0].flatten(1).int().argmax(1)
    counts = corner.bincount()
    assert len(counts[counts > 0]) == 9
    assert stats.chisquare(counts[counts > 0].numpy()).pvalue > 1e-3


def test_a_patch_is_one_rectangle_of_the_right_orientation() -> None:
    allowed = Patch(height=2, width=3)
    clean = grey((1, 3, 5, 6))

    def inside(*pixels: tuple[int, int]) -> bool:
        changed = clean.clone()
        for y, x in pixels:
            changed[0, y % 3, y, x] = 0.9
        return bool(allowed.contains(clean, changed))

    assert inside((3, 3), (4, 5))
    assert inside((0, 0))
    assert not inside((0, 0), (2, 0))  # three rows
    assert not inside((0, 0), (0, 3))  # four columns
    assert not inside((0, 0), (4, 5))  # two far pixels are no patch


def test_a_patch_larger_than_the_image_is_the_whole_image() -> None:
    allowed = Patch(height=100, width=100)
    clean, point = torch.rand(2, 3, 3, 4, 6)
    assert torch.equal(allowed.project(clean, point), point)
    assert bool(allowed.contains(clean, point).all())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"norm": "l3", "radius": 1.0}, "linf, l2, l1, l0"),
        ({"norm": "linf", "radius": -0.1}, "0 or larger"),
        ({"norm": "linf", "radius": math.nan}, "0 or larger"),
        ({"norm": "linf", "radius": 0.1, "low": 1.0, "high": 0.0}, "empty"),
        ({"norm": "linf", "radius": 0.1, "low": 0.5, "high": 0.5}, "empty"),
        ({"norm": "linf", "radius": 0.1, "low": math.nan}, "empty"),
    ],
)
def test_balls_that_mean_nothing_are_refused(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        LpBall(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments", [{"height": -1, "width": 2}, {"height": 2, "width": 2, "low": 1.0, "high": 0.0}]
)
def test_patches_that_mean_nothing_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(BadInput):
        Patch(**arguments)  # type: ignore[arg-type]

"""Projections: land in the set, stay there, move nothing that is inside, and go the nearest way."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from torch import Tensor

from robustkit.threat_models import LpBall, Patch, PerturbationSet
from robustkit.threat_models.perturbation import NORMS, Norm
from robustkit.threat_models.projection import project_l0, project_l1, project_l2, shifted

SHAPES = ((1, 1, 1), (1, 5, 3), (3, 4, 6), (2, 1, 9))
RADII = {"linf": 0.1, "l2": 0.7, "l1": 2.5, "l0": 4.0}


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Clean images, some values at the ends of their range, and points anywhere around them."""
    shape = draw(st.sampled_from(SHAPES))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    clean = torch.rand(4, *shape, generator=generator)
    if draw(st.booleans()):
        clean = (clean * 3 - 1).clamp(0, 1)  # two thirds of the values sit on a border
    if draw(st.booleans()):
        clean = (clean * 255).round() / 255
    scale = draw(st.sampled_from([1e-7, 1e-3, 0.1, 1.0, 30.0, 1e4]))
    change = torch.randn(clean.shape, generator=generator) * scale
    if draw(st.booleans()):
        change = change * (torch.rand(clean.shape, generator=generator) < 0.2)
    if draw(st.booleans()):
        change = change.sign() * scale  # ties
    return clean, clean + change


@st.composite
def sets(draw: st.DrawFn) -> PerturbationSet:
    """Every kind of set, with radii from nothing to everything."""
    if draw(st.integers(0, 4)) == 0:
        return Patch(height=draw(st.integers(0, 5)), width=draw(st.integers(0, 7)))
    norm = draw(st.sampled_from(NORMS))
    factor = draw(st.sampled_from([0.0, 1e-4, 1.0, 1.0, 3.7, 1e3, float("inf")]))
    return LpBall(norm=norm, radius=RADII[norm] * factor)


@given(case=cases(), allowed=sets())
@settings(max_examples=300)
def test_what_is_projected_is_allowed(
    case: tuple[Tensor, Tensor], allowed: PerturbationSet
) -> None:
    clean, point = case
    before = clean.clone(), point.clone()
    projected = allowed.project(clean, point)
    assert projected.shape == clean.shape
    assert projected.dtype == torch.float32
    assert bool(allowed.contains(clean, projected).all())
    assert torch.equal(clean, before[0])
    assert torch.equal(point, before[1])


@given(case=cases(), allowed=sets())
@settings(max_examples=200)
def test_projecting_twice_changes_nothing_more(
    case: tuple[Tensor, Tensor], allowed: PerturbationSet
) -> None:
    clean, point = case
    once = allowed.project(clean, point)
    torch.testing.assert_close(allowed.project(clean, once), once, rtol=0, atol=5e-7)


@given(case=cases(), allowed=sets(), share=st.sampled_from([0.0, 0.3, 0.95]))
@settings(max_examples=200)
def test_what_is_inside_stays_where_it_is(
    case: tuple[Tensor, Tensor], allowed: PerturbationSet, share: float
) -> None:
    """`share` of the way to an allowed point is allowed: every set here is star-shaped."""
    clean, point = case
    inside = (clean + share * (allowed.project(clean, point) - clean)).clamp(0, 1)
    assert bool(allowed.contains(clean, inside).all())
    torch.testing.assert_close(allowed.project(clean, inside), inside, rtol=0, atol=2e-7)


@given(case=cases(), norm=st.sampled_from(["linf", "l1"]))
@settings(max_examples=100)
def test_no_sampled_point_is_nearer_than_the_projection(
    case: tuple[Tensor, Tensor], norm: Norm
) -> None:
    """For a convex set: (point - projection) makes no acute angle with any way into the set."""
    clean, point = case
    allowed = LpBall(norm=norm, radius=RADII[norm])
    projected = allowed.project(clean, point)
    away = (point.double() - projected.double()).flatten(1)
    generator = torch.Generator().manual_seed(0)
    for scale in (0.05, 0.5, 5.0):
        other = clean + torch.randn(clean.shape, generator=generator) * scale
        inward = (allowed.project(clean, other).double() - projected.double()).flatten(1)
        assert bool(((away * inward).sum(1) <= 1e-5 * (1 + away.norm(dim=1))).all())


def test_the_radius_is_used_up() -> None:
    """A projection that is ten per cent too careful passes every test of membership."""
    clean = torch.full((3, 3, 8, 8), 0.5)
    generator = torch.Generator().manual_seed(0)
    point = clean + torch.randn(clean.shape, generator=generator)
    for norm in NORMS:
        allowed = LpBall(norm=norm, radius=RADII[norm])
        distance = allowed.distance(clean, allowed.project(clean, point))
        torch.testing.assert_close(
            distance, torch.full_like(distance, RADII[norm]), rtol=1e-4, atol=0
        )


def bisected_l1(wanted: np.ndarray, room: np.ndarray, radius: float) -> np.ndarray:
    """The l1-ball-and-box projection by bisection on the threshold."""

    def moved(threshold: float) -> np.ndarray:
        moved_by: np.ndarray = np.minimum(np.maximum(np.abs(wanted) - threshold, 0), room)
        return moved_by

    low, high = 0.0, float(np.abs(wanted).max(initial=0.0))
    if moved(0.0).sum() <= radius:
        high = 0.0
    for _ in range(200):
        middle = (low + high) / 2
        if moved(middle).sum() > radius:
            low = middle
        else:
            high = middle
    projected: np.ndarray = np.sign(wanted) * moved(high)
    return projected


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 40),
    radius=st.sampled_from([0.0, 0.01, 0.5, 3.0, 100.0]),
    scale=st.sampled_from([1e-3, 1.0, 50.0]),
    ties=st.booleans(),
)
@settings(max_examples=200)
def test_the_l1_projection_agrees_with_bisection(
    seed: int, size: int, radius: float, scale: float, *, ties: bool
) -> None:
    random = np.random.default_rng(seed)
    wanted = random.normal(size=size) * scale
    if ties:
        wanted = np.round(wanted / scale) * scale
    lowest, highest = -random.random(size), random.random(size)
    lowest[random.random(size) < 0.3] = 0
    room = np.where(wanted > 0, highest, -lowest)
    projected = project_l1(
        torch.tensor(wanted)[None],
        radius,
        lowest=torch.tensor(lowest)[None],
        highest=torch.tensor(highest)[None],
    )
    np.testing.assert_allclose(projected[0].numpy(), bisected_l1(wanted, room, radius), atol=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_the_l1_projection_agrees_with_a_general_solver(seed: int) -> None:
    """Positive and negative parts make the l1 ball a linear constraint."""
    random = np.random.default_rng(seed)
    size, radius = 5, 0.6
    wanted = random.normal(size=size)
    lowest, highest = -random.random(size), random.random(size)
    solved = optimize.minimize(
        lambda z: ((z[:size] - z[size:] - wanted) ** 2).sum(),
        np.zeros(2 * size),
        method="SLSQP",
        bounds=[(0, high) for high in highest] + [(0, -low) for low in lowest],
        constraints={"type": "ineq", "fun": lambda z: radius - z.sum()},
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    projected = project_l1(
        torch.tensor(wanted)[None],
        radius,
        lowest=torch.tensor(lowest)[None],
        highest=torch.tensor(highest)[None],
    )
    np.testing.assert_allclose(projected[0].numpy(), solved.x[:size] - solved.x[size:], atol=1e-5)


@given(case=cases(), radius=st.sampled_from([0.0, 1e-3, 0.5, 4.0]))
@settings(max_examples=60)
def test_the_l2_projection_scales(case: tuple[Tensor, Tensor], radius: float) -> None:
    change = case[1] - case[0]
    flat = change.flatten(1).double()
    wanted = flat * (radius / flat.norm(dim=1, keepdim=True).clamp_min(1e-300)).clamp_max(1)
    torch.testing.assert_close(
        project_l2(change, radius).flatten(1).double(), wanted, rtol=1e-6, atol=1e-7
    )


@given(case=cases(), radius=st.sampled_from([0, 1, 2, 5, 1000]))
@settings(max_examples=60)
def test_the_l0_projection_keeps_the_largest_pixels(
    case: tuple[Tensor, Tensor], radius: int
) -> None:
    change = case[1] - case[0]
    kept = project_l0(change, radius)
    energy = change.double().square().sum(1).flatten(1)
    mask = (kept != 0).any(1).flatten(1)
    assert bool((mask.sum(1) <= radius).all())
    assert torch.equal(kept, change * mask.reshape(len(change), 1, *change.shape[2:]))
    best = energy.sort(1, descending=True).values[:, :radius].sum(1)
    torch.testing.assert_close((energy * mask).sum(1), best, rtol=1e-5, atol=0)


@given(case=cases(), height=st.integers(1, 4), width=st.integers(1, 4))
@settings(max_examples=60)
def test_the_patch_projection_keeps_the_best_rectangle(
    case: tuple[Tensor, Tensor], height: int, width: int
) -> None:
    clean, point = case
    allowed = Patch(height=height, width=width)
    inside = point.clamp(0, 1)
    projected = allowed.project(clean, point)
    energy = (inside - clean).double().square().sum(1)
    tall, wide = min(height, clean.shape[2]), min(width, clean.shape[3])
    best = torch.stack(
        [
            energy[:, top : top + tall, left : left + wide].sum((1, 2))
            for top in range(clean.shape[2] - tall + 1)
            for left in range(clean.shape[3] - wide + 1)
        ]
    ).amax(0)
    kept = (projected - clean).double().square().sum((1, 2, 3))
    torch.testing.assert_close(kept, best, rtol=1e-5, atol=1e-12)
    assert bool(((projected == clean) | (projected == inside)).all())


def test_a_patch_keeps_its_small_changes_beside_large_ones() -> None:
    """Windows that differ by one faint change must not be taken for equal."""
    clean = torch.zeros(1, 1, 1, 6)
    point = clean.clone()
    point[..., 2:4] = 1.0
    point[..., 4] = 1e-5
    assert torch.equal(Patch(height=1, width=3).project(clean, point), point)


def test_rounding_never_leads_out_of_an_l1_ball() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(8, 3, 64, 64, generator=generator)
    change = torch.randn(clean.shape, generator=generator).double() * 1e-3
    moved = (shifted(clean, change).double() - clean.double()).abs()
    assert bool((moved <= change.abs()).all())
    assert bool((moved >= change.abs() - 1.2e-7).all())


@pytest.mark.parametrize("norm", NORMS)
def test_rows_are_projected_by_themselves(norm: Norm, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(5, 3, 4, 6, generator=generator).to(device)
    point = clean + torch.randn(clean.shape, generator=generator).to(device)
    allowed = LpBall(norm=norm, radius=RADII[norm])
    together = allowed.project(clean, point)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert torch.equal(allowed.project(clean[order], point[order]), together[order])
    for row in range(5):
        alone = allowed.project(clean[row : row + 1], point[row : row + 1])
        assert torch.equal(alone, together[row : row + 1])
    assert bool(allowed.contains(clean, together).all())


@pytest.mark.parametrize(
    "allowed",
    [*(LpBall(norm=norm, radius=RADII[norm]) for norm in NORMS), Patch(height=2, width=3)],
    ids=lambda allowed: str(allowed.norm),
)
def test_radius_nought_gives_the_clean_images_and_no_rows_give_none(
    allowed: LpBall | Patch, device: torch.device
) -> None:
    nothing = torch.rand(0, 3, 4, 6, device=device)
    assert allowed.project(nothing, nothing).shape == nothing.shape
    assert allowed.contains(nothing, nothing).shape == (0,)
    assert allowed.distance(nothing, nothing).shape == (0,)
    clean = torch.rand(2, 3, 4, 6, device=device)
    still: Callable[[], PerturbationSet] = lambda: (  # noqa: E731
        LpBall(norm=allowed.norm, radius=0.0)
        if isinstance(allowed, LpBall)
        else Patch(height=0, width=0)
    )
    assert torch.equal(still().project(clean, torch.rand_like(clean)), clean)

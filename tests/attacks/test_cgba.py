"""CGBA and CGBA-H against known answers, and the geometry they stand on."""

import math

import pytest
import scipy.fft
import torch
from torch import Tensor

from robustkit.attacks import CGBA, CGBAH, GeoDA
from robustkit.attacks._boundary import Hunt, Question, Steps
from robustkit.attacks._dct import dimensions, smooth_noise
from robustkit.attacks._grains import Grain, grains, noise_of
from robustkit.attacks._normals import Slope
from robustkit.attacks._semicircles import Arc, Semicircles
from robustkit.attacks._turns import take_turns
from robustkit.randomness import Streams
from robustkit.threat_models import Access, Decisions, LpBall, Meter, Objective, grant
from tests.attacks.decisions import attacked
from tests.oracles import Counting, Problem, linear_problem


def hunt_of(problem: Problem, *, queries: int | None = 100, width: int | None = 4) -> Hunt:
    streams = Streams.of(seed=0, ids=torch.arange(len(problem.clean)))
    view = grant(Meter(problem.model, streams, width=width, queries=queries), Access.DECISION)
    assert isinstance(view, Decisions)
    ball = LpBall(norm="l2", radius=0.5)
    objective = Objective(problem.labels)
    return Hunt.begin(view, problem.clean, objective, ball, streams, queries=50)


@pytest.mark.parametrize("attack", [CGBA(), CGBAH(), CGBA(reduction=1)], ids=str)
def test_linear_boundaries_are_met_within_a_few_percent(attack: Semicircles) -> None:
    problem = linear_problem(interior=True, examples=4)
    result = attacked(attack, problem.model, problem.clean, problem.labels, queries=2500, width=64)
    ratio = result.distance / problem.smallest("l2")
    assert bool((ratio > 1 - 1e-5).all())
    assert float(ratio.max()) < 1.05


@pytest.mark.parametrize("kind", [CGBA, CGBAH])
def test_it_beats_an_attack_without_semicircles(kind: type[Semicircles]) -> None:
    problem = linear_problem((3, 8, 8), interior=True, examples=6, seed=1)
    ours, other = (
        attacked(attack, problem.model, problem.clean, problem.labels, queries=600, width=64)
        for attack in (kind(reduction=1), GeoDA(reduction=1))
    )
    assert float(ours.distance.mean()) < float(other.distance.mean())


def test_several_starts_are_compared_for_one_query_each() -> None:
    problem = linear_problem((1, 6, 6), examples=4, interior=True)
    targets = 1 - problem.labels
    others = [problem.clean[problem.labels == target] for target in targets.tolist()]
    near = torch.stack(
        [torch.lerp(c, o[0], 0.7) for c, o in zip(problem.clean, others, strict=True)]
    )
    far = near + 0.4 * torch.randn(near.shape, generator=torch.Generator().manual_seed(0))
    far = far.clamp(0, 1)
    owned = torch.stack([far, near, far], dim=1)
    reached = problem.model(near).argmax(1) == targets
    assert bool(reached.any())
    one, several = (
        attacked(
            CGBAH(),
            problem.model,
            problem.clean,
            problem.labels,
            queries=25,
            targets=targets,
            starts=starts,
        )
        for starts in (owned[:, :1], owned)
    )
    better = several.distance < one.distance
    assert bool(better[reached].any())


def test_the_semicircle_has_the_line_as_diameter() -> None:
    problem = linear_problem(examples=3, interior=True)
    hunt = hunt_of(problem)
    generator = torch.Generator().manual_seed(0)
    hunt.point = problem.clean + 0.01 * torch.randn(problem.clean.shape, generator=generator)
    rows = torch.tensor([2, 0])
    slope = torch.randn(2, *problem.clean.shape[1:], generator=generator).double()
    arc = Arc(hunt, rows, slope)
    line = (hunt.point - problem.clean)[rows].double().flatten(1)
    torch.testing.assert_close(arc.radius, line.norm(dim=1))
    for angle in (0.0, 0.3, 1.2, math.pi / 2):
        points = arc(torch.tensor([0, 1]), torch.full((2,), angle).double())
        change = (points - problem.clean[rows]).double().flatten(1)
        torch.testing.assert_close(
            change.norm(dim=1), arc.radius * math.cos(angle), atol=1e-6, rtol=1e-4
        )
        # Thales: seen from the semicircle, its diameter is a right angle wide.
        assert float((change * (change - line)).sum(1).abs().max()) < 1e-6
    cosine = torch.nn.functional.cosine_similarity(slope.flatten(1), line)
    torch.testing.assert_close(arc.angle.cos(), cosine)
    along = Arc(hunt, rows, line.reshape(slope.shape))
    assert along.flat.tolist() == [True, True]
    assert Arc(hunt, rows, slope * 0).flat.tolist() == [True, True]


def test_sums_of_directions_are_exact_in_any_order() -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(200, 1, 3, 3, generator=generator)
    won = torch.rand(200, generator=generator) < 0.3
    places = torch.randint(0, 4, (200,), generator=generator)
    order = torch.randperm(200, generator=generator)
    one, other = Slope.flat(torch.zeros(4, 1, 3, 3)), Slope.flat(torch.zeros(4, 1, 3, 3))
    one.add(places, directions, won)
    for part in order.chunk(29):
        other.add(places[part], directions[part], won[part])
    assert torch.equal(one.direction(), other.direction())
    for place in range(4):
        mine = places == place
        z = won[mine].double() - won[mine].double().mean()
        expected = (z[:, None, None, None] * directions[mine].double()).sum(0)
        torch.testing.assert_close(one.direction()[place], expected, atol=1e-6, rtol=0)


def test_directions_that_all_agree_point_there_or_away() -> None:
    directions = torch.ones(4, 1, 1, 1)
    slope = Slope.flat(torch.zeros(2, 1, 1, 1))
    slope.add(torch.tensor([0, 0, 1, 1]), directions, torch.tensor([True, True, False, False]))
    assert slope.direction().flatten().tolist() == [2.0, -2.0]


def test_victims_named_twice_keep_the_nearest_point() -> None:
    problem = linear_problem(examples=2)
    hunt = hunt_of(problem)
    other = 1 - problem.labels
    ends = torch.stack([problem.clean[1 - row] for row in range(2)])
    if int(problem.labels[0]) == int(problem.labels[1]):
        ends = problem.clean - problem.model.weight[problem.labels].reshape_as(problem.clean)
        ends = ends.clamp(0, 1)
    assert torch.equal(problem.model(ends).argmax(1), other)
    shares = torch.tensor([1.0, 0.95, 0.9, 1.0])
    rows = torch.tensor([0, 0, 0, 1])
    points = problem.clean[rows] + shares[:, None, None, None] * (ends - problem.clean)[rows]
    won = hunt.hear(points, rows, problem.model(points).argmax(1))
    expected = hunt.allowed.distance(problem.clean[rows], points).where(won, torch.inf)
    assert hunt.distance.tolist() == [float(expected[:3].min()), float(expected[3])]
    torch.testing.assert_close(hunt.allowed.distance(problem.clean, hunt.point), hunt.distance)
    assert hunt.left.tolist() == [97, 99]


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 5, 12), (2, 1, 7)])
@pytest.mark.parametrize("reduction", [1.0, 2.0, 2.5, 100.0])
def test_smooth_noise_has_low_frequencies_only(
    shape: tuple[int, int, int], reduction: float
) -> None:
    streams = Streams.of(seed=0, ids=torch.arange(400))
    noise = smooth_noise(
        streams, shape, reduction, draw=torch.zeros(400, dtype=torch.int64), width=64
    )
    waves = scipy.fft.dctn(noise.numpy(), axes=(2, 3), norm="ortho")
    height, width = (max(1, math.ceil(side / reduction)) for side in shape[1:])
    assert abs(waves[:, :, height:]).max(initial=0) < 1e-4
    assert abs(waves[:, :, :, width:]).max(initial=0) < 1e-4
    kept = torch.as_tensor(waves[:, :, :height, :width])
    assert float(kept.mean()) == pytest.approx(0, abs=0.1)
    assert float(kept.std()) == pytest.approx(1, abs=0.1)
    assert dimensions(shape, reduction) == kept[0].numel()


@pytest.mark.parametrize("common", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_channels_share_the_said_part_of_their_variance(common: float, channels: int) -> None:
    count, shape = 2000, (channels, 8, 8)
    choice = (Grain(4.0, 0.3), Grain(1.0, common))
    streams = Streams.of(seed=0, ids=torch.arange(count))
    kinds = torch.ones(count, dtype=torch.int64)
    noise = noise_of(choice, kinds, streams, shape, draw=kinds, width=64)
    values = noise.transpose(0, 1).flatten(1).double() * noise[0].numel() ** 0.5
    expected = torch.full((channels, channels), common).double().fill_diagonal_(1)
    torch.testing.assert_close(values @ values.T / values.shape[1], expected, atol=0.02, rtol=0)


def test_grains_are_those_asked_for() -> None:
    def pairs(reduction: float | None, common: float | None, channels: int) -> list[object]:
        chosen = grains(reduction, common, channels=channels)
        return [(grain.reduction, grain.common) for grain in chosen]

    # One channel has nothing in common with others, and no grain is there twice.
    assert pairs(None, None, 1) == [(4, 0), (2, 0), (1, 0)]
    assert pairs(2, 0.5, 1) == [(2, 0)]
    assert pairs(2, None, 3) == [(2, 0.75), (2, 0)]
    assert pairs(None, 0.5, 3) == [(4, 0.5), (2, 0.5), (1, 0.5)]
    assert pairs(2, 0, 3) == [(2, 0)]


def test_grey_steps_are_given_up_where_they_lead_nowhere() -> None:
    problem = linear_problem((3, 6, 6), interior=True, examples=4)
    weight = problem.model.weight
    # What the model follows adds up to nothing over the channels.
    flat = weight.reshape(len(weight), 3, -1)
    weight.data = (flat - flat.mean(1, keepdim=True)).flatten(1)
    labels = problem.model(problem.clean).argmax(1)
    free, grey = (
        attacked(CGBA(common=common), problem.model, problem.clean, labels, queries=900, width=64)
        for common in (None, 0.75)
    )
    assert float((free.distance / grey.distance).log().mean()) < -0.05


def test_noise_is_made_at_one_width() -> None:
    streams = Streams.of(seed=0, ids=torch.arange(11))
    draw = torch.arange(11)
    whole = smooth_noise(streams, (3, 32, 32), 2, draw=draw, width=4)
    for row in range(11):
        alone = smooth_noise(streams.take([row]), (3, 32, 32), 2, draw=draw[row : row + 1], width=4)
        assert torch.equal(alone[0], whole[row])


def test_many_questions_of_one_search_fill_the_batches_of_another() -> None:
    problem = linear_problem(examples=5)
    counting = Counting(problem.model)
    streams = Streams.of(seed=0, ids=torch.arange(5))
    view = grant(Meter(counting, streams, width=4, queries=100), Access.DECISION)
    order: list[str] = []

    def begun(rows: list[int]) -> Hunt:
        hunt = Hunt.begin(
            view.take(torch.tensor(rows)),
            problem.clean[rows],
            Objective(problem.labels[rows]),
            LpBall(norm="l2", radius=0.5),
            streams.take(rows),
            queries=50,
        )
        assert hunt.left.tolist() == [100] * len(rows)
        return hunt

    def search(hunt: Hunt) -> Steps[None]:
        if len(hunt.clean) == 2:
            # One after the other, six times.
            for number in range(6):
                yield from hunt.try_out(hunt.clean, torch.arange(2))
                order.append(f"single {number}")
        else:
            rows = torch.arange(3).repeat_interleave(4)
            heard: list[int] = []

            def learn(part: slice, points: Tensor, won: Tensor) -> None:
                assert torch.equal(points, hunt.clean[rows[part]])
                assert not bool(won.any())
                heard.extend(range(part.start, part.stop))

            yield Question(rows, lambda part: hunt.clean[rows[part]], learn, patient=True)
            assert heard == list(range(12))
            order.append("many")

    hunts = [begun([0, 1, 2]), begun([3, 4])]
    take_turns(view, hunts, search)
    # 24 questions in 6 full batches: single ones first, the rest where there is room.
    assert counting.widths == [4] * 6
    assert counting.forward_rows == 24
    assert order == [*(f"single {number}" for number in range(5)), "many", "single 5"] or order == [
        *(f"single {number}" for number in range(6)),
        "many",
    ]
    assert view.spent.tolist() == [4, 4, 4, 6, 6]
    assert [hunt.left.tolist() for hunt in hunts] == [[96] * 3, [94] * 2]


def test_no_row_of_the_model_is_wasted_on_full_batches() -> None:
    problem = linear_problem(examples=16)
    result = attacked(CGBA(), problem.model, problem.clean, problem.labels, queries=600, width=16)
    assert result.counting is not None
    assert result.counting.forward_rows < 1.1 * sum(result.spent)

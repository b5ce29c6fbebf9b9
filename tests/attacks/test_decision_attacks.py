"""All attacks on labels: accounts, starts, odd models; each result is a point that was asked."""

import dataclasses
import inspect
import re

import pytest
import torch
from torch import Tensor, nn

from robustkit.attacks import CGBA, CGBAH, EvasionAttack, GeoDA, HopSkipJump, RayS, SurFree
from robustkit.errors import BadInput, DoesNotFit
from robustkit.randomness import Streams
from robustkit.threat_models import Access, Decisions, LpBall, Meter, Objective, grant
from tests.attacks.conftest import Victims
from tests.attacks.decisions import attacked, norm_of
from tests.oracles import Constant, Linear, NaNs, Network, Rejecting, linear_problem

Attack = EvasionAttack[Decisions]
ALL = [
    CGBA(queries=400),
    CGBA(queries=400, reduction=2),
    CGBAH(queries=400),
    GeoDA(queries=400),
    SurFree(queries=400),
    HopSkipJump(queries=400),
    RayS(queries=400),
]
each = pytest.mark.parametrize(
    "attack", ALL, ids=lambda a: f"{type(a).__name__}-{getattr(a, 'reduction', None)}"
)
TARGETED = [attack for attack in ALL if "targeted" in attack.goals]


@each
@pytest.mark.parametrize("queries", [1, 2, 10, 60, 97])
def test_a_budget_is_never_exceeded_and_nearly_spent(
    attack: Attack, queries: int, digits: Victims
) -> None:
    few = digits.first(6)
    result = attacked(attack, few.model, few.inputs, few.labels, queries=queries)
    assert min(result.spent) >= queries - 1
    found = result.distance > 0
    assert torch.equal(found, few.model(result.points).argmax(1) != few.labels)
    best = result.trace.smallest([queries])[:, 0]
    assert torch.equal(result.distance[found], best[found])
    assert bool(best[~found].isinf().all())


@each
def test_without_a_budget_the_attack_keeps_to_its_own(attack: Attack, digits: Victims) -> None:
    few = digits.first(3)
    result = attacked(attack, few.model, few.inputs, few.labels, width=None)
    assert set(result.spent) <= {399, 400}
    assert result.counting is not None
    assert result.counting.forward_rows == sum(result.spent)


@each
def test_results_are_adversarial_when_judged_afresh_and_distances_fall(
    attack: Attack, digits: Victims
) -> None:
    few = digits.first(10)
    result = attacked(attack, few.model, few.inputs, few.labels, queries=500)
    assert bool((few.model(result.points).argmax(1) != few.labels).all())
    early, late = result.trace.smallest([100, 500]).T
    assert torch.equal(late, result.distance)
    assert bool((late < 0.9 * early).any())
    assert float((late / early).mean()) < 0.9


@each
def test_neighbours_and_order_change_no_bit_at_a_fixed_width(
    attack: Attack, digits: Victims
) -> None:
    few = digits.first(9)
    together = attacked(
        attack, few.model, few.inputs, few.labels, queries=150, width=4, ids=few.ids
    )
    for rows in ([3], [8, 1, 3], [5, 4, 3, 2, 1]):
        some = attacked(
            attack,
            few.model,
            few.inputs[rows],
            few.labels[rows],
            queries=150,
            width=4,
            ids=few.ids[rows],
        )
        assert torch.equal(some.points, together.points[rows])
        assert some.spent == [together.spent[row] for row in rows]


@each
def test_a_constant_answer_leaves_the_clean_input(attack: Attack) -> None:
    clean = torch.rand(3, 1, 5, 4, generator=torch.Generator().manual_seed(0))
    result = attacked(attack, Constant(), clean, torch.zeros(3, dtype=torch.int64), queries=200)
    assert torch.equal(result.points, clean)
    # The clean image and every try; RayS needs no start and looks on.
    assert set(result.spent) == {1 + getattr(attack, "tries", 199)}


@each
def test_what_is_wrong_from_the_start_costs_one_query(attack: Attack, digits: Victims) -> None:
    few = digits.first(4)
    labels = few.labels.clone()
    labels[2] = (labels[2] + 1) % 10
    result = attacked(attack, few.model, few.inputs, labels, queries=100)
    assert torch.equal(result.points[2], few.inputs[2])
    assert result.spent[2] == 1
    assert result.spent[1] > 90


@each
@pytest.mark.parametrize("shape", [(1, 4, 9), (2, 9, 3), (1, 1, 1), (3, 1, 7)])
def test_any_shape(attack: Attack, shape: tuple[int, int, int]) -> None:
    clean = torch.rand(4, *shape, generator=torch.Generator().manual_seed(1))
    model = Network(channels=shape[0])
    result = attacked(attack, model, clean, model(clean).argmax(1), queries=120)
    assert result.points.shape == clean.shape


@each
def test_refused_answers_are_no_success(attack: Attack) -> None:
    problem = linear_problem(examples=4)
    # Refuses near the boundary: the nearest point must have a lead of its own.
    model = Rejecting(problem.model, 0.5)
    result = attacked(attack, model, problem.clean, problem.labels, queries=400, width=None)
    answer = model.answer(result.points)
    moved = result.distance > 0
    assert bool(moved.any())
    assert answer.rejected is not None
    assert not bool(answer.rejected[moved].any())
    assert bool((answer.labels != problem.labels)[moved].all())
    silent = attacked(attack, NaNs(problem.model), problem.clean, problem.labels, queries=50)
    assert torch.equal(silent.points, problem.clean)


class Flaky(nn.Module):
    """Answers something else now and then, without any pattern in the input."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.generator = torch.Generator().manual_seed(0)
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs)
        odd = torch.rand(len(inputs), generator=self.generator) < 0.2
        return torch.where(odd[:, None], logits.roll(1, dims=1), logits)


@each
def test_an_oracle_that_contradicts_itself_breaks_nothing(attack: Attack, digits: Victims) -> None:
    few = digits.first(5)
    result = attacked(attack, Flaky(few.model), few.inputs, few.labels, queries=200)
    assert bool(result.points.isfinite().all())
    assert bool(result.distance.isfinite().all())


@each
def test_no_image_and_no_money(attack: Attack, digits: Victims) -> None:
    none = attacked(attack, digits.model, digits.inputs[:0], digits.labels[:0])
    assert none.points.shape == (0, 1, 8, 8)
    assert none.counting is not None
    assert none.counting.calls == 0
    few = digits.first(2)
    streams = Streams.of(seed=0, ids=torch.arange(2))
    meter = Meter(few.model, streams, queries=3)
    view = grant(meter, Access.DECISION)
    view.labels(few.inputs.repeat(3, 1, 1, 1), torch.tensor([0, 1] * 3))
    ball = LpBall(norm=norm_of(attack), radius=0.5)
    points = attack.run(view, few.inputs, few.objective, ball, streams=streams)
    assert torch.equal(points, few.inputs)
    assert points.data_ptr() != few.inputs.data_ptr()


@pytest.mark.parametrize("attack", TARGETED, ids=lambda a: type(a).__name__)
def test_targets_are_reached_from_the_adversarys_own_images(
    attack: Attack, digits: Victims
) -> None:
    few = digits.first(6)
    targets = (few.labels + 3) % 10
    starts = torch.full((6, 3, 1, 8, 8), torch.nan)
    for row, target in enumerate(targets.tolist()):
        owned = digits.inputs[digits.labels == target][: 1 + row % 3]
        starts[row, : len(owned)] = owned
    result = attacked(
        attack, few.model, few.inputs, few.labels, queries=400, targets=targets, starts=starts
    )
    assert torch.equal(few.model(result.points).argmax(1), targets)
    nearest = torch.stack(
        [result.ball.distance(few.inputs, starts[:, number]) for number in range(3)]
    ).amin(0)
    assert bool((result.distance < 0.8 * nearest).all())


@pytest.mark.parametrize("attack", TARGETED, ids=lambda a: type(a).__name__)
def test_a_target_that_nothing_reaches_is_not_started(attack: Attack) -> None:
    clean = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(2, dtype=torch.int64)
    starts = torch.full((2, 3, 1, 4, 4), torch.nan)
    starts[0, 1] = 0.5
    result = attacked(
        attack, Constant(), clean, labels, queries=120, targets=labels + 2, starts=starts
    )
    assert torch.equal(result.points, clean)
    tries: int = attack.tries  # type: ignore[attr-defined]
    assert result.spent == [2 + tries, 1 + tries]


@pytest.mark.parametrize("attack", TARGETED, ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("queries", [1, 2, 5, 33])
def test_a_budget_ends_a_targeted_search_anywhere(
    attack: Attack, queries: int, digits: Victims
) -> None:
    few = digits.first(5)
    targets = (few.labels + 3) % 10
    starts = torch.stack([digits.inputs[digits.labels == target][:2] for target in targets])
    result = attacked(
        attack, few.model, few.inputs, few.labels, queries=queries, targets=targets, starts=starts
    )
    assert min(result.spent) >= queries - 1
    found = result.distance > 0
    assert torch.equal(found, few.model(result.points).argmax(1) == targets)
    assert bool(found.all()) == (queries > 1)


@pytest.mark.parametrize("kind", {type(attack): None for attack in ALL}, ids=lambda k: k.__name__)
def test_every_attack_names_its_source_and_each_difference_from_it(kind: type[Attack]) -> None:
    text = inspect.getdoc(kind) or ""
    assert re.search(r"^Reference:\n    \S", text, re.MULTILINE)
    assert re.search(r"^Differs from the reference:\n    \S", text, re.MULTILINE)
    # Whatever a reader can set is explained.
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        assert re.search(rf"^    {field.name}: \S", text, re.MULTILINE), field.name


@each
def test_a_range_without_ends_is_refused(attack: Attack) -> None:
    problem = linear_problem(examples=2)
    streams = Streams.of(seed=0, ids=torch.arange(2))
    view = grant(Meter(problem.model, streams), Access.DECISION)
    ball = LpBall(norm=norm_of(attack), radius=1.0, low=-torch.inf)
    with pytest.raises(DoesNotFit, match="finite value range"):
        attack.run(view, problem.clean, Objective(problem.labels), ball, streams=streams)


@each
def test_another_value_range(attack: Attack) -> None:
    problem = linear_problem(examples=3)
    model = Linear(problem.model.weight / 255, problem.model.bias)
    streams = Streams.of(seed=0, ids=torch.arange(3))
    ball = LpBall(norm=norm_of(attack), radius=1.0, low=0.0, high=255.0)
    view = grant(Meter(model, streams, queries=300), Access.DECISION)
    clean = problem.clean * 255
    points = attack.run(view, clean, Objective(problem.labels), ball, streams=streams)
    assert bool((model(points).argmax(1) != problem.labels).all())
    small = attacked(attack, problem.model, problem.clean, problem.labels, queries=300, width=None)
    torch.testing.assert_close(ball.distance(clean, points) / 255, small.distance, rtol=0.3, atol=0)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        *((kind, "queries", 0) for kind in (CGBA, CGBAH, GeoDA, HopSkipJump, SurFree, RayS)),
        *((kind, "tries", 0) for kind in (CGBA, CGBAH, GeoDA, HopSkipJump, SurFree)),
        *((kind, "reduction", 0.5) for kind in (CGBA, CGBAH, GeoDA, SurFree)),
        *((kind, "tolerance", 0.0) for kind in (CGBA, CGBAH, GeoDA, HopSkipJump, RayS)),
        *((kind, "step", -1.0) for kind in (CGBA, CGBAH, GeoDA, HopSkipJump)),
        (CGBA, "candidates", -1),
        (CGBA, "common", 1.1),
        (CGBAH, "common", -0.1),
        (CGBA, "reduction", float("nan")),
        (GeoDA, "growth", 0.9),
        (SurFree, "halvings", -1),
        (SurFree, "probes", 0),
    ],
)
def test_values_that_mean_nothing_are_refused(kind: type[Attack], name: str, value: float) -> None:
    with pytest.raises(BadInput, match=name):
        dataclasses.replace(kind(), **{name: value})  # type: ignore[type-var]


class _Spots(nn.Module):
    """Class 1 near a few images, class 0 elsewhere."""

    def __init__(self, spots: Tensor) -> None:
        super().__init__()
        self.spots = spots.flatten(1)

    def forward(self, inputs: Tensor) -> Tensor:
        near = (torch.cdist(inputs.flatten(1), self.spots) < 0.05).any(1).float()
        return torch.stack([1 - near, near], 1)


@pytest.mark.parametrize("attack", TARGETED, ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_the_nearest_of_the_adversarys_images_is_asked_about(
    attack: Attack, order: list[int]
) -> None:
    """Also where it is much nearer than those before it, with nothing behind it."""
    clean = torch.full((1, 1, 4, 4), 0.5)
    far, near = clean[0].clone(), clean[0].clone()
    far[:, :2], far[:, 2:], near[:, 0, 0] = 1.0, 0.0, 0.9
    images = torch.stack([far, near])
    objective = Objective(torch.tensor([0]), torch.tensor([1]), images[order][None])
    streams = Streams.of(seed=0, ids=torch.arange(1))
    meter = Meter(_Spots(images), streams, width=8, queries=60)
    ball = LpBall(norm=norm_of(attack), radius=0.5)
    view = grant(meter, Access.DECISION)
    points = attack.run(view, clean, objective, ball, streams=streams)
    assert float((points - clean).norm()) <= 0.45

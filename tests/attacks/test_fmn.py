"""FMN finds the nearest point of another class, and goes on after the first it finds."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustkit import data, models
from robustkit.attacks import FMN, EvasionAttack, FoolboxAttack
from robustkit.attacks.rows import Rows
from robustkit.errors import BadInput
from robustkit.randomness import Streams
from robustkit.threat_models import Access, Gradients, LpBall, Meter, Objective, grant
from robustkit.threat_models.perturbation import Norm
from tests.attacks.conftest import Victims
from tests.oracles import Constant, Linear, Network, Rejecting, linear_problem

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")
norms = pytest.mark.parametrize("norm", NORMS)
NEVER = 0.0


def attacked(
    attack: EvasionAttack[Any],
    model: nn.Module,
    clean: Tensor,
    objective: Objective,
    norm: Norm,
    *,
    ids: list[int] | None = None,
    width: int | None = None,
    queries: int | None = None,
    radius: float = NEVER,
) -> tuple[Tensor, Tensor]:
    """What the attack returns, and what each example has paid."""
    numbers = torch.arange(len(clean)) if ids is None else torch.tensor(ids)
    streams = Streams.of(seed=0, ids=numbers)
    view = grant(Meter(model, streams, width=width, queries=queries), Access.GRADIENT)
    assert isinstance(view, Gradients)
    ball = LpBall(norm=norm, radius=radius)
    return attack.run(view, clean, objective, ball, streams=streams), view.spent


def distances(
    model: nn.Module, clean: Tensor, changed: Tensor, wrong: Tensor, norm: Norm
) -> Tensor:
    """(N,) float64; infinite where the label is still right."""
    ball = LpBall(norm=norm, radius=1.0)
    assert bool(ball.in_box(changed).all())
    with torch.no_grad():
        reached = model(changed).argmax(1) != wrong
    return ball.distance(clean, changed).where(reached, torch.inf)


@norms
@pytest.mark.parametrize("shape", [(3, 4, 6), (1, 5, 3)])
@pytest.mark.parametrize("classes", [2, 5])
def test_linear_models_are_crossed_near_the_optimum(
    norm: Norm, shape: tuple[int, int, int], classes: int
) -> None:
    problem = linear_problem(shape, classes=classes, examples=4)
    changed, _ = attacked(FMN(), problem.model, problem.clean, Objective(problem.labels), norm)
    found = distances(problem.model, problem.clean, changed, problem.labels, norm)
    best = problem.smallest(norm)
    assert bool((found >= 0.999 * best).all())
    # Of several classes not always the nearest is crossed into.
    assert bool((found <= (1.05 if classes == 2 else 1.5) * best).all())


@pytest.mark.parametrize(("norm", "times"), [("linf", 1.05), ("l2", 1.05), ("l1", 2.0)])
def test_small_leads_are_no_reason_to_look_far_away(norm: Norm, times: float) -> None:
    """The cross-entropy of a model that is sure of nothing is far from 0 at its boundaries."""
    problem = linear_problem((3, 16, 16), classes=10, examples=4)
    model = Linear(problem.model.weight * 0.02, problem.model.bias * 0.02)
    changed, _ = attacked(FMN(), model, problem.clean, Objective(problem.labels), norm)
    found = distances(model, problem.clean, changed, problem.labels, norm)
    assert bool((found <= times * problem.smallest(norm)).all())


@norms
@pytest.mark.parametrize("loss", ["margin", "cross-entropy", "dlr"])
def test_a_class_named_by_the_goal_is_reached(norm: Norm, loss: str) -> None:
    problem = linear_problem(classes=5, examples=4)
    nearest = problem.nearest(norm)
    targets = torch.tensor([target for _, target in nearest])
    attack = FMN(loss=loss)  # type: ignore[arg-type]
    objective = Objective(problem.labels, targets)
    changed, _ = attacked(attack, problem.model, problem.clean, objective, norm)
    assert problem.model(changed).argmax(1).tolist() == targets.tolist()
    found = LpBall(norm=norm, radius=1.0).distance(problem.clean, changed)
    assert bool((found <= 1.1 * problem.smallest(norm)).all())


@pytest.mark.parametrize(
    ("norm", "name", "steps", "share"),
    [
        ("linf", "LInfFMNAttack", 12, 1.0),
        ("l2", "DDNAttack", 12, 0.7),
        ("l1", "L1FMNAttack", 30, 1.05),
    ],
)
def test_real_images_change_no_more_than_with_foolbox(
    norm: Norm, name: str, steps: int, share: float
) -> None:
    """Four images, equal passes, by the median."""
    model = models.load("builtin:cifar10-resnet18")
    samples = data.load("samples:cifar10")
    clean, labels = samples.inputs(slice(0, 4)), samples.labels[:4]
    medians = []
    theirs: EvasionAttack[Any] = FoolboxAttack(class_name=name, options=(("steps", steps),))
    for attack in (FMN(steps=steps), theirs):
        changed, _ = attacked(attack, model, clean, Objective(labels), norm)
        medians.append(float(distances(model, clean, changed, labels, norm).median()))
    assert 0 < medians[0] <= share * medians[1]


@norms
def test_it_goes_on_after_a_success_and_returns_the_nearest_point(
    norm: Norm, digits: Victims
) -> None:
    victims = digits.first(8)
    seen: list[tuple[Tensor, Tensor]] = []

    class Spy(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            logits: Tensor = victims.model(inputs)
            seen.append((inputs.detach().clone(), logits.detach().argmax(1)))
            return logits

    changed, spent = attacked(FMN(steps=40), Spy(), victims.inputs, victims.objective, norm)
    assert spent.tolist() == [40] * 8
    ball = LpBall(norm=norm, radius=1.0)
    tried = torch.stack(
        [
            ball.distance(victims.inputs, points).where(labels != victims.labels, torch.inf)
            for points, labels in seen
        ]
    )
    assert bool(tried.amin(0).isfinite().all())
    assert torch.equal(ball.distance(victims.inputs, changed), tried.amin(0))
    assert bool((tried.isfinite().sum(0) > 1).all())


@norms
def test_more_steps_come_nearer(norm: Norm, digits: Victims) -> None:
    victims = digits.first(12)
    medians = []
    for steps in (10, 100):
        changed, _ = attacked(
            FMN(steps=steps), victims.model, victims.inputs, victims.objective, norm
        )
        found = distances(victims.model, victims.inputs, changed, victims.labels, norm)
        medians.append(float(found.median()))
    assert medians[1] < medians[0]


@norms
def test_the_radius_of_the_threat_plays_no_part(norm: Norm) -> None:
    problem = linear_problem(examples=3)
    objective = Objective(problem.labels)
    results = [
        attacked(FMN(steps=20), problem.model, problem.clean, objective, norm, radius=radius)[0]
        for radius in (0.0, 0.1, float("inf"))
    ]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@norms
def test_steps_become_shorter(norm: Norm, digits: Victims) -> None:
    victims = digits.first(4)
    seen: list[Tensor] = []
    model = nn.Sequential(nn.Identity(), victims.model)
    model[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    attacked(FMN(steps=60), model, victims.inputs, victims.objective, norm)
    ball = LpBall(norm=norm, radius=1.0)
    moves = [ball.distance(*pair) for pair in itertools.pairwise(seen)]
    early, late = torch.stack(moves[:10]).mean(0), torch.stack(moves[-5:]).mean(0)
    assert bool((late < 0.2 * early).all())


@norms
def test_balls_never_outgrow_the_value_range(norm: Norm) -> None:
    """Also where there is no gradient, by which the boundary would be infinitely far."""
    clean = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    streams = Streams.of(seed=0, ids=torch.arange(3))
    objective = Objective(torch.zeros(3, dtype=torch.int64))
    ball = LpBall(norm=norm, radius=0.1)
    rows = Rows.first(clean, objective, streams, torch.arange(3), ball)
    attack = FMN(steps=10)
    state = attack.begin(rows)
    logits = torch.tensor([[1.0, 0.0]]).expand(3, -1)
    for _ in range(5):
        attack.update(state, logits, torch.zeros_like(clean))
    corner = (clean < 0.5).to(clean.dtype)
    torch.testing.assert_close(state.radius, ball.distance(clean, corner))


@norms
def test_where_nothing_is_found_the_image_comes_back(norm: Norm) -> None:
    clean = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(3, dtype=torch.int64)
    changed, _ = attacked(FMN(steps=10), Constant(), clean, Objective(labels), norm)
    assert torch.equal(changed, clean)
    problem = linear_problem(examples=3)
    changed, spent = attacked(
        FMN(), problem.model, problem.clean, Objective(problem.labels), norm, queries=1
    )
    assert torch.equal(changed, problem.clean)
    assert spent.tolist() == [1] * 3


@norms
def test_what_is_misclassified_at_the_start_needs_no_change(norm: Norm) -> None:
    problem = linear_problem(examples=3)
    wrong = Objective(1 - problem.labels)
    changed, _ = attacked(FMN(steps=10), problem.model, problem.clean, wrong, norm)
    assert torch.equal(changed, problem.clean)


def test_a_refused_answer_is_no_success() -> None:
    """The nearest point of another class is one at which the model does not answer."""
    problem = linear_problem(examples=3, interior=True)
    assert isinstance(problem.model, Linear)
    model = Rejecting(problem.model, lead=1.0)
    changed, _ = attacked(FMN(), model, problem.clean, Objective(problem.labels), "l2")
    two = problem.model(changed).topk(2, dim=1)
    assert bool((two.indices[:, 0] != problem.labels).all())
    assert bool((two.values[:, 0] - two.values[:, 1] >= 1.0).all())


@norms
def test_company_changes_nothing_at_a_fixed_width(norm: Norm) -> None:
    model = Network()
    clean = torch.rand(11, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    labels = model(clean).argmax(1)

    def some(rows: list[int]) -> Tensor:
        objective = Objective(labels[rows])
        return attacked(FMN(steps=12), model, clean[rows], objective, norm, ids=rows, width=4)[0]

    together = some(list(range(11)))
    order = [7, 2, 10, 0, 5, 1, 9, 3, 8, 6, 4]
    assert torch.equal(some(order), together[order])
    for row in range(0, 11, 3):
        assert torch.equal(some([row]), together[row : row + 1])


@pytest.mark.parametrize(
    "arguments",
    [{"steps": 0}, {"step_size": 0.0}, {"gamma": 0.0}, {"gamma": 1.0}, {"loss": "hinge"}],
    ids=str,
)
def test_options_that_mean_nothing_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        FMN(**arguments)  # type: ignore[arg-type]

"""APGD reaches known optima, follows the reference, and means what its options say."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack
from torch import Tensor, nn
from torch.nn import functional as F

from robustkit import data, models
from robustkit.attacks import APGD
from robustkit.attacks._aims import lead, most_likely_wrong
from robustkit.attacks._balls import project, sparse_step
from robustkit.attacks.rows import Rows
from robustkit.attacks.stepwise import State
from robustkit.errors import BadInput
from robustkit.randomness import Streams
from robustkit.threat_models import Access, Gradients, LpBall, Meter, Objective, grant
from robustkit.threat_models.perturbation import Norm
from tests.attacks.conftest import Victims
from tests.oracles import Network, attack_alone, check_against_optimum, linear_problem

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")
norms = pytest.mark.parametrize("norm", NORMS)
losses = pytest.mark.parametrize("loss", ["cross-entropy", "margin", "dlr"])


@norms
@losses
def test_success_within_a_quarter_of_the_optimum(norm: Norm, loss: str) -> None:
    attack = APGD(loss=loss, steps=30)  # type: ignore[arg-type]
    check_against_optimum(attack, linear_problem(examples=2), norm)


@norms
def test_images_of_one_channel_and_wide_balls(norm: Norm) -> None:
    problem = linear_problem((1, 5, 3), examples=2)
    attack = APGD(steps=30, wide_start=True, random_start=False)
    check_against_optimum(attack, problem, norm)


@pytest.mark.parametrize(
    ("norm", "loss"), [("linf", "margin"), ("l2", "dlr"), ("l1", "cross-entropy")]
)
def test_the_nearest_of_several_classes_is_found_by_aiming_at_all(norm: Norm, loss: str) -> None:
    """Untargeted, the runner-up at the start need not be the nearest class."""
    attack = APGD(loss=loss, targets=4, steps=20)  # type: ignore[arg-type]
    check_against_optimum(attack, linear_problem(classes=5, examples=2), norm)


@norms
def test_a_class_named_by_the_goal_is_reached(norm: Norm) -> None:
    problem = linear_problem(classes=5, examples=2)
    for targets in (0, 2):
        attack = APGD(loss="margin", targets=targets, steps=20)
        check_against_optimum(attack, problem, norm, targeted=True)


@losses
@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_are_enough(loss: str, classes: int) -> None:
    """More targets than wrong classes come round again; the ratio falls back to the margin."""
    attack = APGD(loss=loss, targets=5, steps=10)  # type: ignore[arg-type]
    check_against_optimum(attack, linear_problem(classes=classes, examples=1), "linf")
    problem = linear_problem(classes=classes, examples=1)
    tiny = LpBall(norm="linf", radius=1e-4)
    assert not attack_alone(attack, problem, 0, tiny)


def rows_of(clean: Tensor, labels: Tensor, ball: LpBall, targets: Tensor | None = None) -> Rows:
    n = len(clean)
    streams = Streams.of(seed=0, ids=torch.arange(n))
    return Rows.first(clean, Objective(labels, targets), streams, torch.arange(n), ball)


def trajectory(
    attack: APGD,
    model: Callable[[Tensor], Tensor],
    rows: Rows,
    start: Tensor | None = None,
    *,
    points: list[Tensor] | None = None,
) -> Tensor:
    """(points, N) the losses of one attempt that no success ends."""
    state = attack.begin(rows)
    if start is not None:
        state.point = start
    losses = []
    for _ in range(10 * attack.steps):
        point = attack.propose(state).detach().requires_grad_()
        if points is not None:
            points.append(point.detach())
        logits = model(point)
        loss = attack.gain(state, logits)
        (gradient,) = torch.autograd.grad(loss.sum(), point)
        losses.append(loss.detach())
        with torch.no_grad():
            if bool(attack.update(state, logits.detach(), gradient).all()):
                return torch.stack(losses)
    raise AssertionError("the attempt does not end")


class Losses(nn.Module):
    """Writes down a loss at every call."""

    def __init__(self, model: nn.Module, loss: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.seen: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs)
        self.seen.append(self.loss(logits.detach()))
        return logits


def reference(
    model: nn.Module,
    clean: Tensor,
    labels: Tensor,
    start: Tensor | None,
    ball: LpBall,
    *,
    steps: int,
    loss: str,
) -> Tensor:
    """(points, N) the losses that the authors' implementation meets."""
    norm = {"linf": "Linf", "l2": "L2", "l1": "L1"}[ball.norm]
    attack = APGDAttack(model, n_iter=steps, norm=norm, eps=ball.radius, loss=loss, device="cpu")
    attack.init_hyperparam(clean)
    written = Losses(
        model,
        lambda logits: (
            F.cross_entropy(logits, labels, reduction="none")
            if loss == "ce"
            else attack.dlr_loss(logits, labels)
        ),
    )
    attack.model = written
    with torch.random.fork_rng(devices=[]):
        attack.attack_single_run(clean, labels, x_init=start)
    return torch.stack(written.seen)


def smooth_network(shape: tuple[int, int, int] = (3, 8, 8)) -> tuple[nn.Module, Tensor, Tensor]:
    """In double precision, so that a rounded sign does not part two trajectories."""
    model = Network(channels=shape[0], classes=10).double()
    clean = torch.rand(10, *shape, generator=torch.Generator().manual_seed(0)).double()
    return model, clean, model(clean).argmax(1)


@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.05), ("l2", 0.3)])
@pytest.mark.parametrize("steps", [7, 60])
def test_the_trajectory_is_the_reference_s(norm: Norm, radius: float, steps: int) -> None:
    model, clean, labels = smooth_network()
    ball = LpBall(norm=norm, radius=radius)
    noise = torch.rand(clean.shape, generator=torch.Generator().manual_seed(1)).double() - 0.5
    start = ball.project(clean, clean + radius * noise)
    rows = rows_of(clean, labels, ball)
    ours = trajectory(APGD(steps=steps, restarts=2), model, rows, start)
    theirs = reference(model, clean, labels, start, ball, steps=steps, loss="ce")
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)
    # Steps were shortened, at different times, or there was nothing to compare.
    assert len({int(row.argmax()) for row in ours.T}) > 1


@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.05), ("l2", 0.3)])
def test_with_the_ratio_it_differs_at_the_first_checkpoint_alone(norm: Norm, radius: float) -> None:
    """The reference compares the first loss, which is negative, with 0; see the docstring."""
    model, clean, labels = smooth_network()
    ball = LpBall(norm=norm, radius=radius)
    rows = rows_of(clean, labels, ball)
    attack = APGD(steps=60, loss="dlr", restarts=2, random_start=False)
    ours = trajectory(attack, model, rows)
    theirs = reference(model, clean, labels, clean, ball, steps=60, loss="dlr")
    first = int(0.22 * 60) + 1
    torch.testing.assert_close(ours[:first], theirs[:first], rtol=0, atol=1e-7)
    same = (ours - theirs).abs().amax(0) < 1e-7
    assert int(same.sum()) >= 7


def test_in_l1_it_is_no_worse_than_the_reference(digits: Victims) -> None:
    """The rules differ where the range binds, as it does at most pixels of a digit."""
    victims = digits.first(24)
    ball = LpBall(norm="l1", radius=3.0)
    # A start without noise would make the reference's steps move a single value.
    noise = Streams.of(seed=5, ids=victims.ids).normal(tuple(victims.inputs.shape[1:]))
    start = ball.project(victims.inputs, victims.inputs + noise)
    rows = rows_of(victims.inputs, victims.labels, ball)
    ours = trajectory(APGD(steps=50, restarts=2), victims.model, rows, start).amax(0)
    theirs = reference(
        victims.model, victims.inputs, victims.labels, start, ball, steps=50, loss="ce"
    ).amax(0)
    assert float(ours.mean()) >= 0.98 * float(theirs.mean())


def test_verdicts_on_a_trained_network_are_the_reference_s() -> None:
    """Four real images; radii at which the images fall one after the other."""
    model = models.load("builtin:cifar10-resnet18")
    samples = data.load("samples:cifar10")
    clean, labels = samples.inputs(slice(0, 4)), samples.labels[:4]
    ball = LpBall(norm="linf", radius=0.5 / 255)
    start = ball.sample(clean, streams=Streams.of(seed=0, ids=torch.arange(4)))
    rows = rows_of(clean, labels, ball)
    ours = trajectory(APGD(steps=10, restarts=2), model, rows, start)
    theirs = reference(model, clean, labels, start, ball, steps=10, loss="ce")
    assert ours.shape == theirs.shape
    assert (ours.amax(0) > 0.7).tolist() == (theirs.amax(0) > 0.7).tolist()
    torch.testing.assert_close(ours.amax(0), theirs.amax(0), rtol=0.05, atol=0.02)


@norms
def test_every_point_lies_in_the_set(norm: Norm) -> None:
    model = Network(channels=3, classes=10)
    clean = torch.rand(6, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    labels = model(clean).argmax(1)
    ball = LpBall(norm=norm, radius={"linf": 0.1, "l2": 0.7, "l1": 3.0}[norm])
    points: list[Tensor] = []
    trajectory(APGD(steps=30, targets=2), model, rows_of(clean, labels, ball), points=points)
    for point in points:
        assert bool(ball.contains(clean, point).all())
    far = max(float(ball.distance(clean, point).amax()) for point in points)
    assert far == pytest.approx(ball.radius, rel=1e-3)


def test_wide_balls_shrink_and_a_success_outside_the_set_does_not_count() -> None:
    model = Network(channels=3, classes=10)
    clean = torch.rand(6, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    labels = model(clean).argmax(1)
    ball = LpBall(norm="l1", radius=0.5)
    attack = APGD(steps=20, wide_start=True, restarts=2)
    points: list[Tensor] = []
    trajectory(attack, model, rows_of(clean, labels, ball), points=points)
    assert len(points) == 6 + 1 + 6 + 1 + 8 + 1
    farthest = [float(ball.distance(clean, point).amax()) for point in points]
    assert max(farthest[:7]) == pytest.approx(1.5, rel=1e-3)
    assert max(farthest[7:14]) == pytest.approx(1.0, rel=1e-3)
    assert max(farthest[14:]) == pytest.approx(0.5, rel=1e-3)
    state = attack.begin(rows_of(clean, labels, ball))
    everywhere = torch.ones(6, dtype=torch.bool)
    assert not bool(attack.wins(state, everywhere).any())
    assert bool(ball.contains(clean, attack.result(state)).all())
    state.point = clean
    assert bool(attack.wins(state, everywhere).all())
    assert not bool(attack.wins(state, ~everywhere).any())


def test_a_budget_that_ends_in_a_wide_ball_leaves_a_point_of_the_set() -> None:
    model = Network(channels=3, classes=10)
    clean = torch.rand(6, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    labels = model(clean).argmax(1)
    ball = LpBall(norm="l1", radius=0.5)
    streams = Streams.of(seed=0, ids=torch.arange(6))
    view = grant(Meter(model, streams, queries=4), Access.GRADIENT)
    assert isinstance(view, Gradients)
    attack = APGD(wide_start=True)
    changed = attack.run(view, clean, Objective(labels), ball, streams=streams)
    assert bool(ball.contains(clean, changed).all())
    assert int(view.spent.max()) <= 4


class Spy(nn.Module):
    """Answers like `model` but never changes its mind, so that every attempt is made."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits
        self.asked: list[Tensor] = []
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        self.asked.append(inputs.detach().clone())
        return self.logits + 0.0 * inputs.flatten(1).sum(1, keepdim=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Told(APGD):
    """Keeps the attempt and the classes aimed at in each step."""

    diary: list[tuple[int, int]] = dataclasses.field(default_factory=list, compare=False)

    def gain(self, state: State, logits: Tensor) -> Tensor:
        value = APGD.gain(self, state, logits)  # type: ignore[arg-type]
        if logits.requires_grad:
            (slope,) = torch.autograd.grad(value.sum(), logits, retain_graph=True)
            self.diary.append((int(state.rows.attempt), int(slope.argmax())))
        return value


def test_attempts_aim_at_the_most_likely_wrong_classes_in_turn() -> None:
    spy = Spy(torch.tensor([[0.0, 3.0, 2.0, 5.0, 1.0]]))
    clean = torch.full((1, 1, 2, 2), 0.5)
    ball = LpBall(norm="linf", radius=0.1)
    streams = Streams.of(seed=0, ids=torch.arange(1))
    attack = Told(steps=3, targets=3, restarts=2, loss="margin")
    assert attack.attempts == 6
    view = grant(Meter(spy, streams), Access.GRADIENT)
    assert isinstance(view, Gradients)
    attack.run(view, clean, Objective(torch.tensor([3])), ball, streams=streams)
    # One look at the clean image; start and three steps, but the last point is not looked at.
    aims = [1, 2, 4, 1, 2, 4]
    expected = [(0, 1)]
    for attempt, aim in enumerate(aims):
        expected += [(attempt, aim)] * (4 if attempt < 5 else 3)
    assert attack.diary == expected
    assert torch.equal(spy.asked[0], clean)
    assert not any(torch.equal(point, clean) for point in spy.asked[1:])
    starts = [spy.asked[number] for number in (1, 5, 9, 13, 17, 21)]
    assert len({tuple(start.flatten().tolist()) for start in starts}) == 6


def test_from_the_clean_image_the_look_is_the_first_step() -> None:
    spy = Spy(torch.tensor([[0.0, 3.0, 2.0]]))
    clean = torch.full((1, 1, 2, 2), 0.5)
    streams = Streams.of(seed=0, ids=torch.arange(1))
    view = grant(Meter(spy, streams), Access.GRADIENT)
    assert isinstance(view, Gradients)
    attack = APGD(steps=3, targets=2, random_start=False)
    ball = LpBall(norm="linf", radius=0.1)
    attack.run(view, clean, Objective(torch.tensor([1])), ball, streams=streams)
    assert len(spy.asked) == 4 + 3


@norms
def test_rows_at_different_attempts_and_steps_share_a_batch(norm: Norm) -> None:
    """Bit by bit, in any company, at a fixed width."""
    model = Network()
    clean = torch.rand(11, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    labels = model(clean).argmax(1)
    ball = LpBall(norm=norm, radius={"linf": 0.015, "l2": 0.1, "l1": 0.5}[norm])
    attack = APGD(steps=8, targets=2, restarts=2, loss="margin", wide_start=True)

    def attacked(rows: list[int]) -> tuple[Tensor, Tensor]:
        streams = Streams.of(seed=0, ids=torch.tensor(rows))
        view = grant(Meter(model, streams, width=4), Access.GRADIENT)
        assert isinstance(view, Gradients)
        changed = attack.run(view, clean[rows], Objective(labels[rows]), ball, streams=streams)
        return changed, view.spent

    together, spent = attacked(list(range(11)))
    assert len(set(spent.tolist())) > 1
    order = [7, 2, 10, 0, 5, 1, 9, 3, 8, 6, 4]
    shuffled, spent_shuffled = attacked(order)
    assert torch.equal(shuffled, together[order])
    assert torch.equal(spent_shuffled, spent[order])
    for row in range(0, 11, 3):
        assert torch.equal(attacked([row])[0], together[row : row + 1])


@norms
@pytest.mark.parametrize("targets", [0, 2])
def test_a_radius_of_nought_changes_nothing(norm: Norm, targets: int) -> None:
    model = Network(channels=1)
    clean = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    clean[0] = 0
    streams = Streams.of(seed=0, ids=torch.arange(3))
    view = grant(Meter(model, streams), Access.GRADIENT)
    assert isinstance(view, Gradients)
    attack = APGD(steps=4, targets=targets, wide_start=True)
    objective = Objective(model(clean).argmax(1))
    ball = LpBall(norm=norm, radius=0.0)
    assert torch.equal(attack.run(view, clean, objective, ball, streams=streams), clean)


@norms
def test_an_infinite_radius_is_the_whole_range(norm: Norm) -> None:
    problem = linear_problem(examples=2)
    for row in range(2):
        assert attack_alone(
            APGD(wide_start=True), problem, row, LpBall(norm=norm, radius=torch.inf)
        )


def test_wrong_classes_come_in_falling_order_and_never_the_right_one() -> None:
    logits = torch.tensor([[1.0, 5.0, 3.0, 4.0], [9.0, 0.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    labels = torch.tensor([3, 0, 1])
    expected = [[1, 2, 0], [2, 3, 1], [0, 2, 3]]
    assert most_likely_wrong(logits, labels, 3).tolist() == expected
    assert most_likely_wrong(logits, labels, 5)[:, 3:].tolist() == [row[:2] for row in expected]
    hopeless = torch.full((1, 3), -torch.inf)
    assert 1 not in most_likely_wrong(hopeless, torch.tensor([1]), 2).tolist()[0]


@losses
def test_the_lead_grows_with_the_class_aimed_at(loss: str) -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0, 0.5, 2.5]], requires_grad=True)
    labels, targets = torch.tensor([2]), torch.tensor([0])
    value = lead(loss, logits, labels, targets)  # type: ignore[arg-type]
    (slope,) = torch.autograd.grad(value.sum(), logits)
    assert float(slope[0, 0]) > 0
    if loss != "dlr":
        assert float(slope[0, 2]) < 0
    if loss == "margin":
        assert value.tolist() == [-2]
        # A third class ahead of both is no loss for somebody whom any class serves.
        assert slope[0].tolist() == [1, 0, -1, 0, 0]


@norms
def test_balls_of_one_radius_are_the_set_s(norm: Norm) -> None:
    clean = torch.rand(5, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    changed = clean + torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    radii = torch.tensor([0.0, 0.05, 0.3, 2.0, 1000.0], dtype=torch.float64)
    ours = project(clean, changed, radii, LpBall(norm=norm, radius=1.0))
    for row, radius in enumerate(radii.tolist()):
        ball = LpBall(norm=norm, radius=radius)
        mine = slice(row, row + 1)
        theirs = ball.project(clean[mine], changed[mine])
        torch.testing.assert_close(ours[mine], theirs, rtol=0, atol=1e-6)
        assert bool(ball.contains(clean[mine], ours[mine]).all())


def test_sparse_steps_move_the_largest_gradients_that_have_room() -> None:
    gradient = torch.tensor([[5.0, -4.0, 3.0, 2.0], [5.0, -4.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    point = torch.tensor([[1.0, 0.5, 0.5, 0.5], [0.5, 0.0, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]])
    density = torch.tensor([0.5, 0.75, 1.0])
    ball = LpBall(norm="l1", radius=1.0)
    step = sparse_step(gradient.reshape(3, 1, 2, 2), point.reshape(3, 1, 2, 2), density, ball)
    third = 1 / 3
    torch.testing.assert_close(
        step.flatten(1),
        torch.tensor([[0.0, -0.5, 0.5, 0.0], [third, 0.0, third, third], [0.0] * 4]),
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {"steps": 0},
        {"restarts": 0},
        {"targets": -1},
        {"rho": 1.1},
        {"rho": float("nan")},
        {"loss": "hinge"},
        {"give_up": -0.1},
    ],
    ids=str,
)
def test_options_that_mean_nothing_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        APGD(**arguments)  # type: ignore[arg-type]

"""PGD reaches known optima, never goes below them, and means what its options say."""

import pytest
import torch

from robustkit.attacks import PGD
from robustkit.attacks.rows import Rows
from robustkit.errors import BadInput
from robustkit.randomness import Streams
from robustkit.threat_models import LpBall, Objective
from robustkit.threat_models.perturbation import Norm
from tests.oracles import attack_alone, check_against_optimum, linear_problem

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")
norms = pytest.mark.parametrize("norm", NORMS)


@norms
@pytest.mark.parametrize("shape", [(3, 4, 6), (1, 5, 3)])
def test_success_within_a_quarter_of_the_optimum(norm: Norm, shape: tuple[int, int, int]) -> None:
    check_against_optimum(PGD(), linear_problem(shape, examples=4), norm)


@norms
@pytest.mark.parametrize("shape", [(3, 4, 6), (1, 5, 3)])
def test_the_nearest_of_several_classes_is_reached_as_a_target(
    norm: Norm, shape: tuple[int, int, int]
) -> None:
    """Untargeted, the runner-up at the start need not be the nearest class."""
    problem = linear_problem(shape, classes=5, examples=4)
    check_against_optimum(PGD(loss="margin"), problem, norm, targeted=True)


@norms
@pytest.mark.parametrize("loss", ["cross-entropy", "margin", "dlr"])
def test_two_classes_are_enough_for_every_loss(norm: Norm, loss: str) -> None:
    check_against_optimum(PGD(loss=loss), linear_problem(seed=7), norm)  # type: ignore[arg-type]


@norms
@pytest.mark.parametrize(
    "attack",
    [
        PGD(random_start=False),
        PGD(momentum=0.75),
        PGD(momentum=1.0, random_start=False),
        PGD(steps=20, restarts=3),
    ],
    ids=["from the image", "momentum", "the momentum method", "restarts"],
)
def test_every_variant_reaches_the_optimum(norm: Norm, attack: PGD) -> None:
    check_against_optimum(attack, linear_problem(seed=9), norm)


@norms
def test_very_confident_models_are_attacked_all_the_same(norm: Norm) -> None:
    """The cross-entropy of a model that is certain has a tiny gradient, which has a direction."""
    problem = linear_problem(seed=9)
    problem.model.weight *= 6
    problem.model.bias *= 6
    assert float(problem.model(problem.clean).softmax(1).amin(0).max()) < 1e-8
    check_against_optimum(PGD(random_start=False), problem, norm)


@norms
def test_a_target_among_several_is_reached(norm: Norm) -> None:
    problem = linear_problem(classes=4, seed=2)
    allowed = LpBall(norm=norm, radius={"linf": 1.0, "l2": 8.0, "l1": 70.0}[norm])
    for target in range(4):
        for row in range(5):
            if int(problem.labels[row]) != target:
                assert attack_alone(PGD(steps=100), problem, row, allowed, target=target)


def rows_of(allowed: LpBall, n: int = 3) -> Rows:
    clean = torch.full((n, 1, 4, 4), 0.5)
    return Rows.first(
        clean,
        Objective(torch.zeros(n, dtype=torch.int64)),
        Streams.of(seed=0, ids=torch.arange(n)),
        torch.arange(n),
        allowed,
    )


@norms
def test_starts_are_random_inside_the_set_and_differ_between_attempts(norm: Norm) -> None:
    rows = rows_of(LpBall(norm=norm, radius=0.3))
    first, again = PGD().begin(rows).point, PGD().begin(rows.next_attempt()).point
    assert bool(rows.allowed.contains(rows.clean, first).all())
    assert bool((first != rows.clean).flatten(1).any(1).all())
    assert bool((first != again).flatten(1).any(1).all())
    assert bool((first[0] != first[1]).any())
    assert torch.equal(PGD().begin(rows).point, first)
    assert torch.equal(PGD(random_start=False).begin(rows).point, rows.clean)


def test_the_step_size_is_a_share_of_the_radius() -> None:
    rows = rows_of(LpBall(norm="linf", radius=0.3))
    gradient = torch.ones_like(rows.clean)
    logits = torch.zeros(3, 2)
    for attack, step in ((PGD(steps=10), 0.075), (PGD(steps=10, step_size=0.5), 0.15)):
        attack = PGD(steps=10, step_size=attack.step_size, random_start=False)
        state = attack.begin(rows)
        done = attack.update(state, logits, gradient)
        torch.testing.assert_close(state.point - rows.clean, torch.full_like(gradient, step))
        assert done.tolist() == [False] * 3


def test_momentum_keeps_a_share_of_earlier_directions() -> None:
    rows = rows_of(LpBall(norm="linf", radius=0.3))
    up, down = torch.ones_like(rows.clean), -0.5 * torch.ones_like(rows.clean)
    logits = torch.zeros(3, 2)
    ends = {}
    for momentum in (0.0, 1.0):
        attack = PGD(steps=30, momentum=momentum, random_start=False)
        state = attack.begin(rows)
        for gradient in (up, up, up, down):
            attack.update(state, logits, gradient)
        ends[momentum] = float((state.point - rows.clean).mean()) / 0.025
    # Directions are scaled to mean one: after three steps up, one down does not turn momentum.
    assert ends[0.0] == pytest.approx(2.0, rel=1e-3)
    assert ends[1.0] == pytest.approx(4.0, rel=1e-3)


def test_an_attempt_takes_its_steps_and_looks_back_only_before_another() -> None:
    for restarts, expected in ((1, 3), (2, 4)):
        attack = PGD(steps=3, restarts=restarts)
        rows = rows_of(LpBall(norm="linf", radius=0.3))
        state = attack.begin(rows)
        passes = 1
        while not bool(attack.update(state, torch.zeros(3, 2), torch.ones_like(rows.clean)).all()):
            passes += 1
        assert passes == expected


@norms
def test_an_infinite_radius_is_the_whole_range(norm: Norm) -> None:
    problem = linear_problem()
    for row in range(5):
        assert attack_alone(PGD(), problem, row, LpBall(norm=norm, radius=torch.inf))


@pytest.mark.parametrize(
    "arguments",
    [
        {"steps": 0},
        {"restarts": 0},
        {"step_size": 0.0},
        {"step_size": -1.0},
        {"step_size": float("nan")},
        {"momentum": -0.1},
        {"momentum": 1.1},
        {"momentum": float("nan")},
        {"sparsity": 0.0},
        {"sparsity": 1.5},
        {"loss": "hinge"},
    ],
    ids=str,
)
def test_options_that_mean_nothing_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        PGD(**arguments)  # type: ignore[arg-type]

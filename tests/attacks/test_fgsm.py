"""One-step attacks are exact on linear models."""

import pytest
import torch

from robustkit.attacks import FGSM, StepLL
from robustkit.attacks.base import EvasionAttack
from robustkit.errors import BadInput
from robustkit.threat_models import Gradients, LpBall
from robustkit.threat_models.perturbation import Norm
from tests.oracles import Problem, attack_alone, linear_problem

SHAPES = [(3, 4, 6), (1, 5, 3)]


@pytest.mark.parametrize("loss", ["cross-entropy", "margin", "dlr"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_fgsm_is_exact_with_the_range(norm: Norm, shape: tuple[int, int, int], loss: str) -> None:
    problem = linear_problem(shape, seed=3)
    exact_at_the_smallest_radius(FGSM(loss=loss), problem, norm)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_fgsm_is_exact_inside_the_range(norm: Norm, shape: tuple[int, int, int]) -> None:
    problem = linear_problem(shape, seed=3, interior=True)
    torch.testing.assert_close(problem.smallest("l2"), problem.smallest("l2", boxed=False))
    exact_at_the_smallest_radius(FGSM(), problem, norm)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_least_likely_of_two_classes_is_the_other_one(norm: Norm) -> None:
    exact_at_the_smallest_radius(StepLL(), linear_problem(seed=3, interior=True), norm)


def exact_at_the_smallest_radius(
    attack: EvasionAttack[Gradients], problem: Problem, norm: Norm
) -> None:
    for row, smallest in enumerate(problem.smallest(norm).tolist()):
        assert attack_alone(attack, problem, row, LpBall(norm=norm, radius=smallest * 1.001))
        assert not attack_alone(attack, problem, row, LpBall(norm=norm, radius=smallest * 0.999))


def test_the_step_towards_the_least_likely_class_never_points_at_the_right_one() -> None:
    """The right class is the least likely one here: the next to last is taken."""
    problem = linear_problem(classes=3, seed=5)
    wrong = Problem(problem.model, problem.clean, problem.model(problem.clean).argmin(1))
    # Already misclassified: the search ends where it began.
    assert all(
        attack_alone(StepLL(), wrong, row, LpBall(norm="linf", radius=0.0)) for row in range(5)
    )


@pytest.mark.parametrize("loss", ["", "CE", "ce"])
def test_unknown_losses_are_refused(loss: str) -> None:
    with pytest.raises(BadInput, match="cross-entropy, margin, dlr"):
        FGSM(loss=loss)  # type: ignore[arg-type]

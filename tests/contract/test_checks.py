"""Tests of the tests: every check of the contract catches an attack that breaks it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor

from robustkit.attacks import FGSM, PGD, EvasionAttack
from robustkit.errors import BudgetExceeded
from robustkit.randomness import Streams
from robustkit.threat_models import (
    Access,
    Gradients,
    LpBall,
    Objective,
    PerturbationSet,
    ThreatModel,
)
from tests.contract import checks
from tests.contract.checks import CHECKS, Case
from tests.oracles import check_against_optimum, linear_problem

CPU = torch.device("cpu")
Change = Callable[[Tensor, Gradients, PerturbationSet, Streams], Tensor]


@dataclass(frozen=True)
class Fake(EvasionAttack[Gradients]):
    """Does whatever it is made to do."""

    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1"})
    change: Change

    def run(
        self,
        view: Gradients,
        inputs: Tensor,
        objective: Objective,
        allowed: PerturbationSet,
        *,
        streams: Streams,
    ) -> Tensor:
        return self.change(inputs, view, allowed, streams)


def nothing(inputs: Tensor, view: Gradients, allowed: PerturbationSet, streams: Streams) -> Tensor:
    return inputs.clone()


def in_place(inputs: Tensor, *_: object) -> Tensor:
    inputs += 0.01
    return inputs.clamp(0, 1)


def double(inputs: Tensor, *_: object) -> Tensor:
    return inputs.double()


def the_same_tensor(inputs: Tensor, *_: object) -> Tensor:
    return inputs


def too_far(inputs: Tensor, _: Gradients, allowed: PerturbationSet, *__: object) -> Tensor:
    return (inputs + allowed.radius * 1.1).clamp(0, 1)


def out_of_range(inputs: Tensor, _: Gradients, allowed: PerturbationSet, *__: object) -> Tensor:
    return inputs + allowed.radius


def never_still(inputs: Tensor, *_: object) -> Tensor:
    return (inputs + 1e-6).clamp(0, 1)


def by_global_numbers(
    inputs: Tensor, _: Gradients, allowed: PerturbationSet, __: Streams
) -> Tensor:
    return allowed.project(inputs, inputs + torch.randn(inputs.shape))


def asks_on(inputs: Tensor, view: Gradients, allowed: PerturbationSet, streams: Streams) -> Tensor:
    for _ in range(20):
        view.labels(inputs)
    return inputs.clone()


def asks_about_nothing(
    inputs: Tensor, view: Gradients, allowed: PerturbationSet, streams: Streams
) -> Tensor:
    view.scores(inputs.new_zeros(1, *inputs.shape[1:]), torch.tensor([-1]))
    return inputs.clone()


def normalises_by_the_batch(
    inputs: Tensor, _: Gradients, allowed: PerturbationSet, __: Streams
) -> Tensor:
    return allowed.project(inputs, inputs - inputs.mean(0, keepdim=True))


def by_place(inputs: Tensor, _: Gradients, allowed: PerturbationSet, __: Streams) -> Tensor:
    place = torch.arange(len(inputs)).reshape(-1, 1, 1, 1) / 100
    return allowed.project(inputs, inputs + place)


def square_images_only(
    inputs: Tensor, _: Gradients, allowed: PerturbationSet, __: Streams
) -> Tensor:
    return allowed.project(inputs, inputs.transpose(2, 3).reshape(inputs.shape)[:, :, :7, :5])


def three_channels_only(inputs: Tensor, *_: object) -> Tensor:
    return inputs[:, [0, 1, 2]]


def behind_the_counter(
    inputs: Tensor, view: Gradients, allowed: PerturbationSet, streams: Streams
) -> Tensor:
    vars(view)["_Decisions__meter"]._model(inputs)
    return inputs.clone()


def trains_the_model(
    inputs: Tensor, view: Gradients, allowed: PerturbationSet, streams: Streams
) -> Tensor:
    view.logits(inputs).sum().backward()  # type: ignore[no-untyped-call]
    return inputs.clone()


def switches_modes(
    inputs: Tensor, view: Gradients, allowed: PerturbationSet, streams: Streams
) -> Tensor:
    vars(view)["_Decisions__meter"]._model.eval()
    return inputs.clone()


def at_least_one(inputs: Tensor, *_: object) -> Tensor:
    return inputs - inputs[0:1] + inputs[[0]]


@pytest.mark.parametrize(
    ("check", "change"),
    [
        (checks.same_shape_type_and_device, double),
        (checks.same_shape_type_and_device, the_same_tensor),
        (checks.inputs_are_untouched, in_place),
        (checks.model_is_untouched, trains_the_model),
        (checks.model_is_untouched, switches_modes),
        (checks.same_streams_same_result, by_global_numbers),
        (checks.results_are_allowed, too_far),
        (checks.results_are_allowed, out_of_range),
        (checks.budgets_are_kept, asks_on),
        (checks.budgets_are_kept, behind_the_counter),
        (checks.no_image_is_a_batch, asks_about_nothing),
        (checks.no_image_is_a_batch, at_least_one),
        (checks.radius_nought_changes_nothing, never_still),
        (checks.any_shape_of_images, three_channels_only),
        (checks.any_shape_of_images, square_images_only),
        (checks.order_and_neighbours_do_not_matter, normalises_by_the_batch),
        (checks.order_and_neighbours_do_not_matter, by_place),
        (checks.every_pass_is_counted, behind_the_counter),
        (checks.every_pass_is_counted, nothing),
        (checks.known_optima_are_reached, nothing),
        (checks.attacks_are_values, lambda inputs, *_: inputs),
    ],
)
def test_each_check_catches_who_breaks_it(check: Callable[[Case], None], change: Change) -> None:
    expected = (AssertionError, BudgetExceeded, IndexError, RuntimeError, AttributeError)
    with pytest.raises(expected + (Exception,) * (check is checks.attacks_are_values)):
        check(Case(attack=Fake(change), norm="linf", device=CPU))


def test_a_check_of_threats_catches_an_attack_that_fits_everything() -> None:
    class Anything(FGSM):
        def why_not(self, threat: ThreatModel) -> str | None:
            return None

    with pytest.raises(AssertionError, match="was not refused"):
        checks.wrong_threats_are_refused(Case(attack=Anything(), norm="linf", device=CPU))


def test_one_image_is_checked() -> None:
    def two(inputs: Tensor, *_: object) -> Tensor:
        return torch.cat([inputs, inputs])

    with pytest.raises(AssertionError):
        checks.one_image_is_a_batch(Case(attack=Fake(two), norm="linf", device=CPU))


def test_no_check_is_left_out() -> None:
    defined = {
        value
        for name, value in vars(checks).items()
        if callable(value)
        and getattr(value, "__module__", "") == checks.__name__
        and value.__annotations__.get("case") in (Case, "Case")
        and name != "attacked"
    }
    assert set(CHECKS) == defined


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_doing_nothing_fails_every_oracle(norm: Any) -> None:  # noqa: ANN401
    with pytest.raises(AssertionError, match="fails on row 0"):
        check_against_optimum(Fake(nothing), linear_problem(), norm)


def test_a_weak_attack_fails_the_oracle() -> None:
    with pytest.raises(AssertionError, match="fails on row"):
        check_against_optimum(PGD(steps=5, step_size=0.05), linear_problem(), "linf")


def test_a_success_below_the_optimum_is_told() -> None:
    """Half of a wrong label's radius must not do: here the labels are wrong from the start."""
    problem = linear_problem()
    wrong = type(problem)(problem.model, problem.clean, 1 - problem.labels)
    assert wrong.smallest("linf").tolist() == [0.0] * 5
    with pytest.raises(AssertionError, match="succeeds on row 0 below"):
        check_against_optimum(FGSM(), wrong, "linf")


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("shape", [(3, 2, 3), (1, 4, 2)])
@pytest.mark.parametrize("boxed", [True, False])
def test_the_oracles_agree_with_general_solvers(
    shape: tuple[int, int, int], classes: int, *, boxed: bool
) -> None:
    problem = linear_problem(shape, classes=classes, examples=3)
    size = int(np.prod(shape))
    for row in range(3):
        x = problem.clean[row].flatten().double().numpy()
        best = {"linf": np.inf, "l1": np.inf, "l2": np.inf}
        label = int(problem.labels[row])
        for other in set(range(classes)) - {label}:
            w = (problem.model.weight[other] - problem.model.weight[label]).double().numpy()
            b = float(problem.model.bias[other] - problem.model.bias[label])
            need = -(w @ x + b)
            box = [(-v, 1 - v) if boxed else (None, None) for v in x]
            # linf: minimise t with -t <= d <= t; l1: minimise the sum of both parts of d.
            eye, ones = np.eye(size), np.ones((size, 1))
            linf = optimize.linprog(
                [*[0.0] * size, 1.0],
                A_ub=np.vstack([np.hstack([eye, -ones]), np.hstack([-eye, -ones]), [*-w, 0.0]]),
                b_ub=[*[0.0] * (2 * size), -need],
                bounds=[*box, (0, None)],
            )
            up = [(0, 1 - v if boxed else None) for v in x]
            down = [(0, v if boxed else None) for v in x]
            l1 = optimize.linprog(
                [1.0] * (2 * size), A_ub=[[*-w, *w]], b_ub=[-need], bounds=up + down
            )
            l2 = optimize.minimize(
                lambda d: d @ d,
                need * w / (w @ w),
                jac=lambda d: 2 * d,
                method="SLSQP",
                bounds=box,
                constraints={"type": "ineq", "fun": lambda d, w=w, need=need: w @ d - need},
                options={"ftol": 1e-14, "maxiter": 500},
            )
            best["linf"] = min(best["linf"], linf.fun)
            best["l1"] = min(best["l1"], l1.fun)
            best["l2"] = min(best["l2"], float(np.sqrt(l2.fun)))
        for norm, value in best.items():
            found = float(problem.smallest(norm, boxed=boxed)[row])
            assert found == pytest.approx(value, rel=1e-4), norm


def test_the_l0_oracle_agrees_with_trying_every_set_of_pixels() -> None:
    problem = linear_problem((2, 2, 3), examples=4, seed=8)
    difference = problem.model.weight[0] - problem.model.weight[1]
    for row in range(4):
        clean = problem.clean[row : row + 1]
        sign = -1.0 if int(problem.labels[row]) == 0 else 1.0
        best = ((sign * difference.reshape(clean.shape)) > 0).float()
        found = 7
        for chosen in range(64):
            mask = torch.tensor([chosen >> bit & 1 for bit in range(6)]).reshape(1, 1, 2, 3)
            changed = torch.where(mask == 1, best, clean)
            if int(problem.model(changed).argmax()) != int(problem.labels[row]):
                assert LpBall(norm="l0", radius=6).contains(clean, changed)
                found = min(found, int(mask.sum()))
        assert float(problem.smallest("l0")[row]) == found

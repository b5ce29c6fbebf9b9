"""Checks before a run, and the state in which a model is held and given back."""

import copy
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustkit import evaluate
from robustkit.attacks import FGSM, PGD, EvasionAttack, RayS, Square
from robustkit.data import LabelledImages
from robustkit.errors import BadInput, DeviceLost, DoesNotFit, ShapeMismatch
from robustkit.evaluation.conditions import single_precision
from robustkit.models.cnn import CNN
from robustkit.randomness import Streams
from robustkit.report import EvasionReport
from robustkit.threat_models import Access, Budget, LpBall, Output, ThreatModel
from tests.evaluation.cheats import Failing, Trouble
from tests.evaluation.victims import Count, Counting, digits, network, threat, victim


class Altered(nn.Module):
    """A model whose answers go through a function."""

    def __init__(self, model: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.change = change
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.change(self.model(inputs))


def ids(report: EvasionReport) -> set[str]:
    """The flags, but for the one that every run on a few examples raises."""
    return {flag.id for flag in report.flags} - {"F11"}


def quick(model: nn.Module, images: LabelledImages | None = None) -> EvasionReport:
    return evaluate(model, images or digits(12), threat(), attacks=[FGSM()])


def test_an_ordinary_model_raises_no_flag(model: CNN) -> None:
    report = quick(model)
    assert ids(report) == set()
    assert report.environment.reproducible


@pytest.mark.parametrize("fails", [False, True])
def test_a_model_is_judged_in_eval_mode_and_given_back_as_it_was(fails: bool) -> None:
    model = victim()
    expected = quick(model).examples
    model.train()
    model.get_submodule("bn2").eval()
    model.get_parameter("conv1.weight").requires_grad = False
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    if fails:
        with pytest.raises(Trouble):
            evaluate(model, digits(12), threat(), attacks=[Failing()])
    else:
        assert quick(model).examples == expected
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_refused_model_is_given_back_as_it_was() -> None:
    model = network(classes=3).train()
    with pytest.raises(BadInput):
        quick(model)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_weights_are_frozen_during_the_run(model: CNN) -> None:
    seen: set[bool] = set()

    def look(count: Count) -> None:
        seen.add(any(parameter.requires_grad for parameter in model.parameters()))

    quick(Counting(model, look))
    assert seen == {False}


def test_probabilities_are_flagged(model: CNN) -> None:
    assert ids(quick(Altered(model, lambda logits: logits.softmax(1)))) == {"probabilities"}
    assert ids(quick(Altered(model, lambda logits: logits.log_softmax(1)))) == set()


def test_a_random_model_is_flagged_and_not_called_reproducible(model: CNN) -> None:
    report = quick(Altered(model, lambda logits: logits + 1e-3 * torch.randn_like(logits)))
    assert ids(report) == {"F1"}
    assert not report.environment.reproducible


def test_a_random_model_with_streams_is_flagged_and_reproducible(model: CNN) -> None:
    class Noisy(nn.Module):
        stochastic = True

        def answer(self, inputs: Tensor, *, streams: Streams | None = None) -> Output:
            assert streams is not None
            return Output(model(inputs) + streams.normal((10,)))

        def forward(self, inputs: Tensor) -> Tensor:
            raise AssertionError

    report = evaluate(Noisy(), digits(6), threat(), attacks=[PGD(steps=2)], batch_size=4)
    again = evaluate(Noisy(), digits(6), threat(), attacks=[PGD(steps=2)], batch_size=4)
    assert "F1" in ids(report)
    assert report.environment.reproducible
    assert report.examples == again.examples


def test_a_model_that_answers_nan_is_flagged_and_right_about_nothing(model: CNN) -> None:
    report = quick(Altered(model, lambda logits: logits * torch.nan))
    assert ids(report) >= {"non-finite-logits"}
    assert "F1" not in ids(report)
    assert report.environment.reproducible
    assert report.clean_accuracy.value == 0
    assert {example.status for example in report.examples} == {"misclassified"}


def test_a_model_without_slope_is_flagged(model: CNN) -> None:
    flat = Altered(model, lambda logits: logits.round() + 0 * logits)
    report = quick(flat)
    assert "F3" in ids(report)
    (message,) = (flag.message for flag in report.flags if flag.id == "F3")
    assert "on 12 clean images" in message
    assert "exactly zero for 12" in message


def test_a_model_that_cannot_be_differentiated_is_refused_by_gradient_attacks(model: CNN) -> None:
    with pytest.raises(DoesNotFit, match="carries no gradient back"):
        quick(Altered(model, lambda logits: logits.detach()))


class OneWay(torch.autograd.Function):
    """Passes its input on, and nothing back."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:  # noqa: ANN401
        return inputs.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        raise NotImplementedError("no backward pass")


def one_way(logits: Tensor) -> Tensor:
    passed: Tensor = OneWay.apply(logits)
    return passed


@pytest.mark.parametrize(
    ("access", "attack"), [(Access.DECISION, RayS()), (Access.SCORE, Square(queries=5))]
)
def test_a_backward_pass_that_fails_is_none_of_a_black_box_attack(
    access: Access, attack: EvasionAttack[Any]
) -> None:
    adversary = dataclasses.replace(threat(), access=access, budget=Budget(queries=20))
    report = evaluate(Altered(network(), one_way), digits(4), adversary, attacks=[attack])
    assert ids(report) == set()
    assert "white_box" not in report.diagnostics


def test_a_backward_pass_that_fails_is_refused_by_gradient_attacks() -> None:
    with pytest.raises(DoesNotFit, match="carries no gradient back"):
        quick(Altered(network(), one_way))


def test_nan_gradients_make_the_verdict_void(model: CNN) -> None:
    # The square root has an infinite slope at 0, and 0 times infinity is NaN.
    report = quick(Altered(model, lambda logits: logits + 0 * (0 * logits).sqrt()))
    assert "non-finite-gradient" in ids(report)
    assert {flag.severity for flag in report.flags} == {"void", "info"}


def test_too_few_classes_are_refused() -> None:
    with pytest.raises(BadInput, match="the label 9, but the model answers 3 classes"):
        quick(network(classes=3), digits(40))


def test_a_model_made_in_inference_mode_is_refused_and_its_copy_is_not() -> None:
    with torch.inference_mode():
        model = network()
    with pytest.raises(BadInput, match=r"inference_mode\(\).* copy.deepcopy"):
        quick(model, digits(2))
    assert quick(copy.deepcopy(model), digits(2)).violations == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(BadInput, match=f"{dtype}; verdicts are made in float32"):
        quick(victim().to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_answers_in_other_types_are_refused(dtype: torch.dtype, model: CNN) -> None:
    with pytest.raises(BadInput, match=f"{dtype}; it must answer"):
        quick(Altered(model, lambda logits: logits.to(dtype)))


def test_buffers_in_half_precision_are_refused(model: CNN) -> None:
    norm = model.get_submodule("bn1")
    norm.register_buffer("running_mean", model.get_buffer("bn1.running_mean").half())
    with pytest.raises(BadInput, match="verdicts are made in float32"):
        quick(model)


def test_images_with_other_channels_are_refused_naming_the_shape(model: CNN) -> None:
    pair = (torch.rand(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(BadInput, match=r"cannot take images of 3 x 8 x 8 \(channels x height"):
        evaluate(model, pair, threat())


@pytest.mark.parametrize("error", [AssertionError("only 4 x 4"), KeyError("size")])
def test_images_of_another_size_are_refused_whatever_the_model_raises(error: Exception) -> None:
    class Picky(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            raise error

    with pytest.raises(BadInput, match="cannot take images of 1 x 8 x 8"):
        quick(Picky())
    flat = nn.Sequential(nn.Flatten(), nn.Linear(9, 10))
    with pytest.raises(BadInput, match="cannot take images of 1 x 8 x 8"):
        quick(flat)


def test_a_model_that_changes_its_input_is_told_so(model: CNN) -> None:
    class Careless(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            inputs -= 0.5
            logits: Tensor = model(inputs)
            return logits

    with pytest.raises(BadInput, match="changes its input in place"):
        quick(Careless())


def test_answers_of_another_shape_are_refused(model: CNN) -> None:
    with pytest.raises(ShapeMismatch, match="one row of logits per image"):
        quick(Altered(model, lambda logits: logits[:, :, None]))
    with pytest.raises(BadInput, match="answers 0 classes"):
        quick(Altered(model, lambda logits: logits[:, :0]))
    with pytest.raises(BadInput, match=r"answers 1 classes .* at least two"):
        quick(Altered(model, lambda logits: logits[:, :1]))


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_work_with_the_ratio_of_logits(classes: int) -> None:
    images = digits(360)
    few = images.take(images.labels < classes).first(20)
    report = evaluate(victim(classes), few, threat(), attacks=["fgsm", PGD(loss="dlr", steps=10)])
    # Untargeted, it needs three.
    assert ids(report) == ({"dlr-fallback"} if classes == 2 else set())
    assert report.model.classes == classes
    assert 0 < report.robust_accuracy.value < 1
    standard = evaluate(victim(classes), few, threat())
    assert 0 < standard.robust_accuracy.value <= report.robust_accuracy.value


def test_a_range_that_the_images_leave_is_refused(model: CNN) -> None:
    ball = LpBall(norm="linf", radius=0.1, low=0.25, high=0.75)
    with pytest.raises(BadInput, match=r"values in \[0.25, 0.75\]"):
        evaluate(model, digits(4), ThreatModel(name="narrow", perturbation=ball))
    middle = torch.full((4, 1, 8, 8), 0.5), torch.zeros(4, dtype=torch.int64)
    report = evaluate(model, middle, ThreatModel(name="narrow", perturbation=ball))
    assert report.violations == 0


def test_a_batch_that_does_not_fit_into_memory_is_halved(model: CNN) -> None:
    def crowded(inputs: Tensor) -> Tensor:
        if len(inputs) > 5:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")
        return inputs

    images = digits(12)
    report = quick(nn.Sequential(Altered(nn.Identity(), crowded), model).eval(), images)
    assert report.environment.width == 3
    assert (
        report.examples
        == evaluate(model, images, threat(), attacks=[FGSM()], batch_size=3).examples
    )


def test_memory_that_runs_out_later_can_be_resumed(model: CNN, tmp_path: Path) -> None:
    def starve(count: Count) -> None:
        if count.calls == 9:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(DeviceLost, match=r"Memory ran out\. Nothing was recorded"):
        evaluate(Counting(model, starve), digits(8), threat(), batch_size=8)
    judged = Counting(model, starve)
    with pytest.raises(DeviceLost, match="the run can be resumed"):
        evaluate(judged, digits(8), threat(), batch_size=8, out=tmp_path)
    resumed = evaluate(judged, digits(8), threat(), batch_size=8, out=tmp_path, resume=True)
    assert resumed.examples == evaluate(model, digits(8), threat(), batch_size=8).examples


def test_a_device_that_fails_is_told(model: CNN) -> None:
    def fail(count: Count) -> None:
        if count.calls == 9:
            raise RuntimeError("CUDA error: unspecified launch failure\nCompile with ...")

    with pytest.raises(DeviceLost, match=r"CUDA error: unspecified launch failure\)"):
        evaluate(Counting(model, fail), digits(8), threat(), batch_size=8)


@pytest.mark.parametrize("device", ["abc", "cuda:x"])
def test_an_unknown_device_is_bad_input(device: str, model: CNN) -> None:
    with pytest.raises(BadInput, match="is unknown"):
        evaluate(model, digits(4), threat(), device=device)


def test_a_model_elsewhere_is_bad_input(model: CNN) -> None:
    with pytest.raises(BadInput, match="model is not on meta"):
        evaluate(model, digits(4), threat(), device="meta")


@pytest.mark.parametrize(("width", "seed"), [(0, 0), (-3, 0), (None, 2**64)])
def test_numbers_out_of_range_are_bad_input(width: int | None, seed: int, model: CNN) -> None:
    with pytest.raises(BadInput):
        evaluate(model, digits(4), threat(), batch_size=width, seed=seed)


@pytest.fixture
def loose_precision() -> Iterator[None]:
    """A caller who traded precision for speed."""
    before = torch.get_float32_matmul_precision()
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=True):
        torch.set_float32_matmul_precision("high")
        yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("loose_precision")
def test_verdicts_are_in_full_single_precision(model: CNN) -> None:
    def settings() -> tuple[object, ...]:
        cudnn = torch.backends.cudnn
        return (
            cudnn.allow_tf32,
            cudnn.benchmark,
            cudnn.deterministic,
            torch.get_float32_matmul_precision(),
        )

    seen = set()
    before = settings()
    quick(Counting(model, lambda count: seen.add(settings())))
    assert seen == {(False, False, True, "highest")}
    assert settings() == before
    with pytest.raises(Trouble), single_precision():
        raise Trouble
    assert settings() == before

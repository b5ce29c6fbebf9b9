"""Criticality: the known answer of a linear model, the ball, the order, and what is left alone."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustkit.defenses import _criticality
from robustkit.defenses._criticality import (
    Criticality,
    attacked,
    criticality,
    projected,
    ranked,
)
from robustkit.defenses._weights import Weight, choice, weights
from robustkit.errors import BadInput, DoesNotFit, UnknownName
from robustkit.models.resnet import BasicBlock, ResNet
from robustkit.randomness import Streams
from tests.training.tiny import LINF, Normed, Smooth, state, tiny_data

IMAGES = tiny_data().inputs(slice(None))
LABELS = tiny_data().labels


def matrix_of(model: nn.Sequential) -> Tensor:
    """The weights of its only layer, to look at and to write on."""
    return model.get_parameter("1.weight").data


def linear(classes: int = 2) -> nn.Sequential:
    """One layer without a bias."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, classes, bias=False))
    matrix_of(model).copy_(torch.arange(4.0 * classes).reshape(classes, 4) / 10)
    return model.eval()


def measure(
    model: nn.Module, name: str, *, radius: float = 0.1, steps: int = 10, batch_size: int = 16
) -> Criticality:
    """The criticality of one module on the tiny images."""
    weight = next(one for one in weights(model, IMAGES[:1]) if one.module == name)
    return criticality(
        model, weight, IMAGES, LABELS, radius=radius, steps=steps, batch_size=batch_size
    )


def test_the_known_answer_of_a_linear_model() -> None:
    """One image, two classes: the loss is softplus of the margin, which is linear in the weights.

    With weights w0, w1 and image x of class 0 the loss rises fastest along (-x, x), and the largest
    rise of the margin in a ball of radius r is r * sqrt(2) * |x|.
    """
    model = linear()
    image = torch.tensor([0.1, 0.9, 0.4, 0.2]).reshape(1, 1, 2, 2)
    weight = Weight(module="1", name="1.weight", parameters=8, stem=True, spatial=False)
    labels = torch.tensor([0])
    found = criticality(model, weight, image, labels, radius=0.3, steps=10, batch_size=4)
    matrix = matrix_of(model)
    room = 0.3 * float(matrix.norm())
    margin = float((matrix[1] - matrix[0]) @ image.flatten())
    reached = margin + room * math.sqrt(2) * float(image.norm())
    softplus = F.softplus(torch.tensor([margin, reached], dtype=torch.float64))
    assert found.mrc == pytest.approx(float(softplus[1] - softplus[0]), rel=1e-5)
    assert found.boundary
    assert found.accuracy_drop == 0  # it was wrong before


def test_the_change_stays_in_the_ball_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Normed().eval()
    start = model.conv.weight.detach().clone()
    lengths: list[float] = []
    real = torch.func.functional_call

    def watched(module: nn.Module, values: dict[str, Tensor], inputs: tuple[Tensor]) -> Tensor:
        change = values["conv.weight"].detach() - start
        lengths.append(float(change.norm() / start.norm()))
        logits: Tensor = real(module, values, inputs)
        return logits

    monkeypatch.setattr(_criticality, "functional_call", watched)
    found = measure(model, "conv", radius=0.2, steps=7, batch_size=48)
    # The start, and one point after each step; the first step has 2.5 / 7 of the radius.
    assert len(lengths) == 8
    assert lengths[0] == 0
    assert lengths[1] == pytest.approx(0.2 * 2.5 / 7, rel=1e-4)
    assert max(lengths) <= 0.2 * (1 + 1e-5)
    assert lengths[-1] == pytest.approx(0.2, rel=1e-4)
    assert found.boundary
    assert found.mrc > 0


def test_projection_shortens_what_is_too_long_and_nothing_else() -> None:
    change = torch.tensor([3.0, 4.0])
    assert torch.equal(projected(change, 5.0), change)
    torch.testing.assert_close(projected(change, 1.0), change / 5)
    assert torch.equal(projected(torch.zeros(2), 0.0), torch.zeros(2))


def test_a_larger_ball_is_never_less_critical() -> None:
    model = Smooth().eval()
    values = [measure(model, "last", radius=radius).mrc for radius in (0.01, 0.1, 0.5)]
    assert 0 < values[0] < values[1] < values[2]


def test_chunks_change_nothing_but_rounding() -> None:
    model = Normed().eval()
    whole, parts = (measure(model, "conv", batch_size=size) for size in (48, 7))
    assert parts.mrc == pytest.approx(whole.mrc, rel=1e-4)
    assert parts.accuracy_drop == whole.accuracy_drop


def test_the_model_is_left_alone() -> None:
    model = Normed().train()
    model.conv.eval()
    model.conv.bias.requires_grad_(False)  # type: ignore[union-attr]
    before = state(model)
    measure(model, "conv")
    after = state(model)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [module.training for module in (model, model.conv, model.norm)] == [True, False, True]
    assert [p.requires_grad for p in model.conv.parameters()] == [True, False]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.conv._forward_pre_hooks


def test_a_tensor_without_a_slope_is_not_critical() -> None:
    model = linear(classes=3)
    matrix_of(model).zero_()
    weight = Weight(module="1", name="1.weight", parameters=12, stem=True, spatial=False)
    inputs = torch.rand(3, 1, 2, 2)
    found = criticality(
        model, weight, inputs, torch.tensor([0, 1, 2]), radius=0.1, steps=3, batch_size=4
    )
    assert (found.mrc, found.accuracy_drop, found.boundary) == (0.0, 0.0, False)


def test_a_loss_that_is_no_number_is_refused() -> None:
    model = Smooth()
    model.last.bias.data.fill_(torch.nan)
    with pytest.raises(BadInput, match=r"NaN or infinite where 'last\.weight'"):
        measure(model, "last")


def test_the_attacked_images_are_allowed_and_harder() -> None:
    model = Smooth().eval()
    data = tiny_data()
    streams = Streams.of(seed=0, ids=data.ids)
    changed, labels = attacked(model, data, LINF, steps=5, batch_size=20, streams=streams)
    assert bool(LINF.allowed.contains(IMAGES, changed).all())
    assert torch.equal(labels, LABELS)
    assert F.cross_entropy(model(changed), labels) > F.cross_entropy(model(IMAGES), labels) + 0.01
    again, _ = attacked(model, data, LINF, steps=5, batch_size=20, streams=streams)
    assert torch.equal(changed, again)


def one(module: str, mrc: float) -> Criticality:
    return Criticality(
        module=module, parameters=1, stem=False, mrc=mrc, accuracy_drop=0.0, boundary=True
    )


def test_the_least_critical_comes_first_and_ties_go_by_name() -> None:
    found = [one("b", 0.5), one("c", 0.1), one("a", 0.5), one("d", 0.0)]
    assert [x.module for x in ranked(found)] == ["d", "c", "a", "b"]
    assert ranked(found) == ranked(found[::-1])


class Odd(nn.Module):
    """Calls its layers in another order than it builds them, one never, two with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.sub = nn.Linear(4, 4)
        self.last = nn.Linear(4, 2)
        self.first = nn.Conv2d(1, 1, 1)
        self.middle = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, inputs: Tensor) -> Tensor:
        answer: Tensor = self.last(self.middle(self.first(inputs)).flatten(1))
        return answer


def test_weights_are_those_a_pass_meets_in_its_order() -> None:
    found = weights(Odd(), torch.rand(1, 1, 2, 2))
    assert [weight.module for weight in found] == ["first", "middle", "last"]
    assert [weight.name for weight in found] == ["first.weight", "middle.weight", "last.weight"]
    assert [weight.stem for weight in found] == [True, False, False]
    assert [weight.spatial for weight in found] == [False, True, False]
    assert [weight.parameters for weight in found] == [1, 9, 8]


def test_a_residual_network_has_its_shortcuts_and_its_classifier() -> None:
    model = ResNet(BasicBlock, (1, 1), classes=3, channels=1, width=2)
    names = [weight.module for weight in weights(model, IMAGES[:1])]
    assert names[0] == "conv1"
    assert {"layer2.0.shortcut.0", "linear"} <= set(names)
    assert not any("bn" in name for name in names)


def test_a_model_without_weights_is_refused() -> None:
    with pytest.raises(DoesNotFit, match="no convolution and no linear layer"):
        weights(nn.Flatten(), IMAGES[:1])


def test_the_choice_leaves_out_the_stem() -> None:
    found = weights(Odd(), torch.rand(1, 1, 2, 2))
    order = ["first", "last", "middle"]
    assert [w.module for w in choice(found, order, modules=(), candidates="all")] == ["last"]
    assert [w.module for w in choice(found, order, modules=(), candidates="spatial")] == ["middle"]


def test_a_named_module_is_taken_by_its_exact_name() -> None:
    found = weights(Odd(), torch.rand(1, 1, 2, 2))
    named = choice(found, [], modules=("middle", "first", "middle"), candidates="all")
    assert [weight.module for weight in named] == ["middle", "first"]
    for name in ("mid", "sub", "middle.weight", ""):
        with pytest.raises(UnknownName, match="layer of the model is called"):
            choice(found, [], modules=(name,), candidates="all")


def test_a_model_with_nothing_behind_its_stem_is_told_to_name_a_module() -> None:
    found = weights(linear(), torch.rand(1, 1, 2, 2))
    with pytest.raises(DoesNotFit, match="Name a module: 1"):
        choice(found, ["1"], modules=(), candidates="all")


def test_the_best_point_counts_and_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([(1.0, 40), (3.0, 10), (2.0, 20)])

    def climbed(*given: object, **named: object) -> tuple[float, int, Tensor]:
        loss, right = next(values)
        return loss, right, torch.ones(3, 16)

    monkeypatch.setattr(_criticality, "_climbed", climbed)
    found = measure(Smooth().eval(), "last", steps=2)
    assert found.mrc == 2.0
    assert found.accuracy_drop == pytest.approx(30 / 48)
    values = iter([(1.0, 40), (0.5, 45)])
    assert measure(Smooth().eval(), "last", steps=1).mrc == 0

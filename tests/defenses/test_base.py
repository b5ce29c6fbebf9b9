"""The contract of defenses, and the guard over buffers."""

import pytest
import torch
from torch import Tensor, nn

from robustkit.defenses import Defended, RiFT, buffers_kept
from robustkit.defenses.base import only
from robustkit.errors import BadInput, DoesNotFit
from robustkit.randomness import Streams
from robustkit.threat_models import Output, Patch, Stage, ThreatModel
from tests.training.tiny import LINF, Normed, equal, state, tiny_data


class Cautious(Defended):
    """Refuses every second image."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = Normed()

    def answer(self, inputs: Tensor, *, streams: Streams | None = None) -> Output:
        return Output(self.classifier(inputs), rejected=torch.arange(len(inputs)) % 2 == 1)


def test_a_defended_model_is_a_classifier_too() -> None:
    model = Cautious().eval()
    images = tiny_data().inputs(slice(0, 4))
    assert model.answer(images).labels[1::2].tolist() == [-1, -1]
    assert torch.equal(model(images), model.classifier(images))
    assert model.surrogates() == {}
    assert not model.stochastic


def test_a_threat_that_does_not_fit_is_refused_with_the_reason() -> None:
    rift = RiFT()
    assert rift.why_not(LINF) is None
    patch = ThreatModel(name="patch", perturbation=Patch(height=2, width=2))
    with pytest.raises(DoesNotFit, match="it knows l1, l2, linf, the threat allows patch"):
        rift.check(patch)
    with pytest.raises(DoesNotFit, match="the threat allows no change of inputs"):
        rift.check(ThreatModel(name="none"))
    with pytest.raises(DoesNotFit, match="it defends at inference, the threat acts at training"):
        rift.check(ThreatModel(name="late", stage=Stage.TRAINING))


def test_one_model_at_a_time() -> None:
    model = Normed()
    assert only([model], "It") is model
    with pytest.raises(BadInput, match="It defends one model at a time; 2 were given"):
        only([model, model], "It")


def test_a_clean_pass_that_changes_buffers_is_caught_and_undone() -> None:
    model = Normed().train()
    before = state(model)
    with pytest.raises(DoesNotFit, match=r"'norm.running_mean' and 2 more"), buffers_kept(model):
        model(tiny_data().inputs(slice(None)))
    after = state(model)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_clean_pass_that_keeps_buffers_is_not() -> None:
    model = Normed().eval()
    twin = Normed().eval()
    with buffers_kept(model):
        model(tiny_data().inputs(slice(None)))
        with torch.no_grad():
            model.last.bias.add_(0)
    assert equal(model, twin)


def test_the_guard_does_not_hide_what_else_goes_wrong() -> None:
    model = Normed().train()
    before = state(model)
    with pytest.raises(RuntimeError, match="mat1 and mat2"), buffers_kept(model):
        model(torch.rand(4, 1, 9, 9))
    assert torch.equal(before["norm.running_mean"], state(model)["norm.running_mean"])


def test_buffers_that_are_no_numbers_are_compared_too() -> None:
    model = nn.Module()
    model.register_buffer("odd", torch.tensor([torch.nan, 1.0]))
    with buffers_kept(model):
        pass
    with pytest.raises(DoesNotFit, match="'odd'"), buffers_kept(model):
        model.get_buffer("odd")[1] = 2.0

"""Holding a model still, and giving it back."""

import pytest
import torch
from torch import nn

from robustkit.models.frozen import frozen


def mixed() -> nn.Sequential:
    """A model whose modules and parameters differ in mode and flag."""
    inner = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5))
    model = nn.Sequential(inner, nn.Flatten(), nn.Linear(2, 2))
    model.train()
    inner[1].eval()
    inner.training = False
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 2 == 0)
    return model


def state(model: nn.Module) -> tuple[list[bool], list[bool]]:
    return (
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
    )


def test_inside_everything_is_still() -> None:
    model = mixed()
    with frozen(model) as same:
        assert same is model
        modes, flags = state(model)
        assert not any(modes)
        assert not any(flags)


def test_every_mode_and_flag_is_restored() -> None:
    model = mixed()
    before = state(model)
    assert len(set(before[0])) == len(set(before[1])) == 2
    with frozen(model):
        pass
    assert state(model) == before


def test_they_are_restored_after_an_error() -> None:
    model = mixed()
    before = state(model)
    with pytest.raises(KeyError), frozen(model):
        raise KeyError
    assert state(model) == before


def test_they_are_restored_where_somebody_inside_changed_them() -> None:
    model = mixed()
    before = state(model)
    with frozen(model):
        model.train()
        model.requires_grad_()
    assert state(model) == before


def test_a_model_made_in_inference_mode_is_given_back_too() -> None:
    with torch.inference_mode():
        model = mixed()
    before = state(model)
    with frozen(model):
        assert not any(state(model)[1])
    assert state(model) == before


def test_it_can_be_nested() -> None:
    model = mixed()
    before = state(model)
    with frozen(model):
        with frozen(model):
            pass
        assert not any(state(model)[0])
        assert not any(state(model)[1])
    assert state(model) == before


def test_statistics_stay_and_gradients_reach_the_input_alone() -> None:
    model = mixed()
    norm = model.get_submodule("0.1").train()
    mean = model.get_buffer("0.1.running_mean").clone()
    inputs = torch.rand(4, 1, 3, 3, requires_grad=True)
    with frozen(model):
        model(inputs).sum().backward()
    assert torch.equal(norm.get_buffer("running_mean"), mean)
    assert inputs.grad is not None
    assert all(parameter.grad is None for parameter in model.parameters())

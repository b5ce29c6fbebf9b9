"""A fingerprint tells models apart by their bits, and by nothing else."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from robustkit.models import CNN, fingerprint, parameter_count


class Other(CNN):
    """The same tensors under another class name."""


def flip_one_bit(model: nn.Module) -> None:
    model.get_parameter("conv2.weight").data.view(torch.int32)[0, 0, 0, 0] ^= 1


def change_a_buffer(model: nn.Module) -> None:
    model.get_buffer("bn1.running_var")[0] += 1e-6


def count_one_batch(model: nn.Module) -> None:
    model.get_buffer("bn1.num_batches_tracked").add_(1)


def reshape(model: nn.Module) -> None:
    weight = model.get_parameter("conv1.weight")
    weight.data = weight.data.reshape(*weight.shape[:2], 9, 1)


def change_type(model: nn.Module) -> None:
    model.get_parameter("linear.bias").data = torch.zeros(10, dtype=torch.int32).view(torch.float32)
    model.register_buffer("extra", torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize(
    "change", [flip_one_bit, change_a_buffer, count_one_batch, reshape, change_type]
)
def test_any_change_of_the_state_changes_it(change: Callable[[nn.Module], None]) -> None:
    model = CNN(width=4)
    before = fingerprint(model)
    with torch.no_grad():
        change(model)
    assert fingerprint(model) != before


def test_the_type_of_a_tensor_counts() -> None:
    one, two = nn.Module(), nn.Module()
    one.register_buffer("a", torch.zeros(4, dtype=torch.int32))
    two.register_buffer("a", torch.zeros(4, dtype=torch.float32))
    assert fingerprint(one) != fingerprint(two)


def test_mode_layout_and_gradients_do_not_change_it(device: torch.device) -> None:
    model = CNN(width=4)
    before = fingerprint(model)
    model.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)
    assert fingerprint(model) == before
    assert fingerprint(CNN(width=4)) == before


def test_the_class_counts() -> None:
    assert fingerprint(Other(width=4)) != fingerprint(CNN(width=4))


def test_half_precision_and_empty_tensors_have_one() -> None:
    model = nn.Linear(2, 2).to(torch.bfloat16)
    model.register_buffer("empty", torch.zeros(0, 3))
    assert len(fingerprint(model)) == 64


def test_shared_parameters_count_once_and_buffers_not_at_all() -> None:
    layer = nn.Linear(3, 3)
    assert parameter_count(nn.Sequential(layer, layer, nn.BatchNorm1d(3))) == 12 + 6

"""A fingerprint tells models apart by their bits, and by nothing else."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from robustkit.models import CNN, fingerprint, load, parameter_count, save


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


@pytest.mark.parametrize(
    "others",
    [
        (nn.Flatten(), nn.Hardtanh(), nn.Linear(4, 2)),
        (nn.Flatten(), nn.LeakyReLU(0.2), nn.Linear(4, 2)),
        (nn.LeakyReLU(), nn.Flatten(), nn.Linear(4, 2)),
        (nn.Flatten(), nn.LeakyReLU(), nn.Linear(4, 2), nn.Identity()),
    ],
)
def test_modules_without_tensors_count(others: tuple[nn.Module, ...]) -> None:
    linear = nn.Linear(4, 2)
    model, other = nn.Sequential(nn.Flatten(), nn.LeakyReLU(), linear), nn.Sequential(*others)
    other[2] = linear
    assert fingerprint(other) != fingerprint(model)


def test_what_a_process_or_a_device_adds_does_not_count(device: torch.device) -> None:
    class Talkative(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.some, self.list = object(), nn.ParameterList([torch.zeros(1)])

        def extra_repr(self) -> str:
            return f"{self.some}, device={self.list[0].device}, {self.list.extra_repr()}"

    one, two = Talkative(), Talkative()
    assert one.extra_repr() != two.extra_repr()
    assert fingerprint(one) == fingerprint(two.to(device))


def test_a_saved_model_comes_back_as_the_same(tmp_path: Path) -> None:
    model = CNN(classes=4, seed=5)
    save(model, tmp_path / "saved", spec="cnn", arguments={"classes": 4})
    assert fingerprint(load(str(tmp_path / "saved"))) == fingerprint(model)


def test_half_precision_and_empty_tensors_have_one() -> None:
    model = nn.Linear(2, 2).to(torch.bfloat16)
    model.register_buffer("empty", torch.zeros(0, 3))
    assert len(fingerprint(model)) == 64


def test_shared_parameters_count_once_and_buffers_not_at_all() -> None:
    layer = nn.Linear(3, 3)
    assert parameter_count(nn.Sequential(layer, layer, nn.BatchNorm1d(3))) == 12 + 6

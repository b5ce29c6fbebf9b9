"""The own architectures: published sizes, any image, and the model that works at once."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from robustkit import registry
from robustkit.errors import BadInput, MissingExtra, MissingFile, UnknownName
from robustkit.models import CNN, Normalize, PreActResNet, load, parameter_count

OWN = [
    name
    for name, entry in registry.entries("models").items()
    if entry.target.startswith("robustkit.models.architectures:") and ":" not in name
]
SMALL = ["cnn", "resnet-8", "wrn-16-1"]


@pytest.mark.parametrize(
    ("name", "classes", "count"),
    [
        ("resnet-8", 10, 78_042),
        ("resnet-18", 10, 11_173_962),
        ("resnet-18", 100, 11_220_132),
        ("resnet-34", 10, 21_282_122),
        ("resnet-50", 10, 23_520_842),
        ("preact-resnet-18", 10, 11_172_170),
        ("wrn-16-1", 10, 175_066),
        ("wrn-28-10", 10, 36_479_194),
        ("wrn-34-10", 10, 46_160_474),
        ("wrn-34-20", 10, 184_531_674),
        ("wrn-70-16", 10, 266_796_506),
        ("wrn-70-16-silu", 10, 266_796_506),
    ],
)
def test_parameters_are_as_many_as_published(name: str, classes: int, count: int) -> None:
    with torch.device("meta"):
        model = registry.find("models", name).load()(classes=classes)
    assert parameter_count(model) == count


@pytest.mark.parametrize("name", OWN)
def test_silu_is_used_where_and_only_where_the_name_says_so(name: str) -> None:
    with torch.device("meta"):
        model = registry.find("models", name).load()()
    kinds = {type(m) for m in model.modules() if isinstance(m, torch.nn.ReLU | torch.nn.SiLU)}
    assert kinds == {torch.nn.SiLU if name.endswith("-silu") else torch.nn.ReLU}


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize(
    ("channels", "height", "width", "classes"),
    [(1, 28, 28, 10), (3, 32, 32, 2), (3, 64, 64, 200), (3, 33, 20, 43), (1, 8, 8, 10)],
)
def test_any_image_gives_logits(
    name: str, channels: int, height: int, width: int, classes: int
) -> None:
    with torch.device("meta"):
        model = registry.find("models", name).load()(classes=classes, channels=channels)
        images = torch.empty(2, channels, height, width)
    assert model.eval()(images).shape == (2, classes)


@pytest.mark.parametrize("name", SMALL)
def test_an_example_does_not_depend_on_its_neighbours(name: str, images: Tensor) -> None:
    model = load(name, channels=3)
    together = model(images)
    alone = torch.cat([model(image[None]) for image in images])
    turned = model(images.flip(0)).flip(0)
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(turned, together, rtol=1e-4, atol=1e-5)
    assert together.std(dim=0).min() > 0


@pytest.mark.parametrize("name", SMALL)
def test_new_weights_keep_the_scale_of_the_signal(name: str, images: Tensor) -> None:
    logits = load(name).train()(images)
    assert 0.1 < logits.std() < 10


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_gets_a_gradient(name: str, images: Tensor) -> None:
    model = load(name).train()
    loss = torch.nn.functional.cross_entropy(model(images), torch.arange(len(images)))
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_the_seed_decides_the_weights_and_the_global_generator_does_not() -> None:
    first = load("cnn", seed=3).state_dict()
    torch.rand(5)
    again, other = load("cnn", seed=3).state_dict(), load("cnn", seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_a_normalisation_is_part_of_the_network(images: Tensor) -> None:
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    plain, normalised = CNN().eval(), CNN(mean=mean, std=std).eval()
    by_hand = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(normalised(images), plain(by_hand))
    assert {"normalize.mean", "normalize.std"} <= set(normalised.state_dict())


def test_one_value_normalises_all_channels(images: Tensor) -> None:
    assert torch.equal(Normalize([0.5], [0.25])(images), (images - 0.5) / 0.25)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ([], []),
        ([0.5], [0.0]),
        ([0.5], [-1.0]),
        ([float("nan")], [1.0]),
        ([0.5], [float("inf")]),
        ([0.5] * 3, [1.0]),
    ],
)
def test_an_impossible_normalisation_is_refused(mean: list[float], std: list[float]) -> None:
    with pytest.raises(BadInput):
        Normalize(mean, std)


def test_impossible_networks_are_refused() -> None:
    with pytest.raises(BadInput, match="2 values for a model with 3"):
        CNN(mean=[0.5] * 2, std=[0.5] * 2)
    with pytest.raises(BadInput, match="only one"):
        CNN(mean=[0.5])
    with pytest.raises(BadInput, match="0 classes"):
        CNN(classes=0)
    with pytest.raises(UnknownName, match="relu"):
        CNN(activation="rleu")
    with pytest.raises(BadInput, match="depth 30"):
        PreActResNet.wide(30, 1)


def test_a_wide_resnet_is_computed_as_its_paper_says(images: Tensor) -> None:
    model = PreActResNet.wide(10, 2, classes=4, activation="silu").eval()
    state = {
        name: torch.rand(value.shape, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.1
        for name, value in model.state_dict().items()
        if value.is_floating_point()
    }
    model.load_state_dict(state, strict=False)

    def convolved(inputs: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(inputs, weight, stride=stride, padding=weight.shape[-1] // 2)

    def active(inputs: Tensor, name: str) -> Tensor:
        words = ("running_mean", "running_var", "weight", "bias")
        mean, variance, scale, shift = (state[f"{name}.{word}"].view(-1, 1, 1) for word in words)
        return F.silu((inputs - mean) / (variance + 1e-5).sqrt() * scale + shift)

    hidden = convolved(images, "conv1")
    for stage, stride in ((1, 1), (2, 2), (3, 2)):
        first = active(hidden, f"layer{stage}.0.bn1")
        residual = convolved(first, f"layer{stage}.0.conv1", stride)
        residual = convolved(active(residual, f"layer{stage}.0.bn2"), f"layer{stage}.0.conv2")
        hidden = residual + convolved(first, f"layer{stage}.0.shortcut", stride)
    features = active(hidden, "bn").mean((2, 3))
    wanted = F.linear(features, state["linear.weight"], state["linear.bias"])
    torch.testing.assert_close(model(images), wanted, rtol=1e-4, atol=1e-3)


def test_dropout_acts_in_training_only(images: Tensor) -> None:
    model = PreActResNet.wide(10, 1, dropout=0.5)
    plain = PreActResNet.wide(10, 1)
    assert torch.equal(model.eval()(images), plain.eval()(images))
    with torch.random.fork_rng(devices=[]):
        assert not torch.equal(model.train()(images), plain.train()(images))


def test_the_builtin_model_is_right_on_all_of_foolboxs_cifar_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyautoattack"]:
        monkeypatch.delitem(sys.modules, name)
    found = importlib.util.find_spec("foolbox")
    assert found is not None
    assert found.submodule_search_locations is not None
    files = sorted(Path(found.submodule_search_locations[0], "data").glob("cifar10_*.png"))
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    labels = torch.tensor([int(file.stem.rsplit("_")[-1]) for file in files])
    model = load("builtin:cifar10-resnet18")
    with torch.no_grad():
        logits = model(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
    assert len(files) == 20
    assert torch.equal(logits.argmax(1), labels)
    assert not model.training
    assert not any(name.startswith("pyautoattack") for name in sys.modules)


def test_the_builtin_model_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyautoattack").mkdir()
    (tmp_path / "pyautoattack" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    # Another test may have imported the real one.
    monkeypatch.delitem(sys.modules, "pyautoattack", raising=False)
    with pytest.raises(MissingFile, match=r"model_test\.pt"):
        load("builtin:cifar10-resnet18")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="pip install pyautoattack"):
        load("builtin:cifar10-resnet18")

"""The named architectures: what `--model resnet-18` builds.

A factory of a model is called with keyword arguments only. `classes`, `channels`, `size` and
`seed` are given to it where its signature has them; one that can come with trained weights has a
parameter `pretrained`, and builds an untrained network where that is false.
"""

import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from torch import nn

from robustkit.errors import MissingExtra, MissingFile
from robustkit.models.cnn import CNN
from robustkit.models.preact import PreActResNet
from robustkit.models.resnet import BasicBlock, Bottleneck, ResNet
from robustkit.models.weights import fit, read


class Architecture(Protocol):
    """Builds one architecture with new weights, for any image size."""

    def __call__(
        self,
        *,
        classes: int = 10,
        channels: int = 3,
        activation: str = ...,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        seed: int = 0,
    ) -> nn.Module:
        """See `ResNet` for the arguments."""
        ...


def _named(summary: str, build: Callable[..., nn.Module], *, default: str = "relu") -> Architecture:
    """The documented factory of `build`; `default` is its activation."""

    def factory(
        *,
        classes: int = 10,
        channels: int = 3,
        activation: str = default,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        seed: int = 0,
    ) -> nn.Module:
        return build(
            classes=classes,
            channels=channels,
            activation=activation,
            mean=mean,
            std=std,
            seed=seed,
        )

    factory.__doc__ = f"""{summary}

    Args:
        classes: Number of logits.
        channels: Channels of the images.
        activation: `relu` or `silu`.
        mean: Of a `Normalize` layer in front; None for none.
        std: Of that layer.
        seed: Of the new weights.
    """
    return factory


def _wide(depth: int, factor: int, *, default: str = "relu") -> Architecture:
    return _named(
        f"The wide residual network WRN-{depth}-{factor}: `PreActResNet.wide`.",
        partial(PreActResNet.wide, depth, factor),
        default=default,
    )


_preact_18 = partial(PreActResNet, (2, 2, 2, 2), widths=(64, 128, 256, 512), stem=64)

cnn = _named("A small convolutional network for a CPU: `CNN`.", CNN)
resnet_8 = _named(
    "A thin residual network of three blocks, for tiny images or a CPU: `ResNet`.",
    partial(ResNet, BasicBlock, (1, 1, 1), width=16),
)
resnet_18 = _named(
    "The residual network of 18 layers: `ResNet`.", partial(ResNet, BasicBlock, (2, 2, 2, 2))
)
resnet_34 = _named(
    "The residual network of 34 layers: `ResNet`.", partial(ResNet, BasicBlock, (3, 4, 6, 3))
)
resnet_50 = _named(
    "The residual network of 50 layers, with bottlenecks: `ResNet`.",
    partial(ResNet, Bottleneck, (3, 4, 6, 3)),
)
preact_resnet_18 = _named("ResNet-18 with pre-activation: `PreActResNet`.", _preact_18)
preact_resnet_18_silu = _named(
    "ResNet-18 with pre-activation and SiLU: `PreActResNet`.", _preact_18, default="silu"
)
wrn_16_1 = _wide(16, 1)
wrn_28_10 = _wide(28, 10)
wrn_28_10_silu = _wide(28, 10, default="silu")
wrn_34_10 = _wide(34, 10)
wrn_34_20 = _wide(34, 20)
wrn_70_16 = _wide(70, 16)
wrn_70_16_silu = _wide(70, 16, default="silu")


def cifar10_resnet18(*, pretrained: bool = True, seed: int = 0) -> nn.Module:
    """A ResNet-18 trained on CIFAR-10, without a defense, with the weights that AutoAttack carries.

    The installed package `pyautoattack` has the weights among its examples; it is found but not
    imported. Takes (N, 3, H, W) images in [0, 1]; classes in CIFAR-10's order.

    Args:
        pretrained: False for new weights.
        seed: Of the new weights.

    Reference:
        Francesco Croce, Matthias Hein: "Reliable Evaluation of Adversarial Robustness with an
        Ensemble of Diverse Parameter-free Attacks", ICML 2020 (the authors' example model).

    Raises:
        MissingExtra: `pyautoattack` is not installed.
        MissingFile: It is, without the weights.
    """
    model = resnet_18(seed=seed)
    if not pretrained:
        return model
    file = _package_folder("pyautoattack") / "examples" / "model_test.pt"
    if not file.is_file():
        raise MissingFile(
            f"The weights of builtin:cifar10-resnet18 are not at {file}. "
            "Reinstall the package: pip install --force-reinstall pyautoattack"
        )
    fit(model, read(file), source=str(file))
    return model


def _package_folder(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise MissingExtra(
            f"builtin:cifar10-resnet18 takes its weights from the package {name!r}, which is not "
            f"installed. Install it with: pip install {name}"
        )
    return Path(found.submodule_search_locations[0])

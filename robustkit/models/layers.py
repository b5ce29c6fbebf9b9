"""Layers and helpers that the architectures share."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn

from robustkit.errors import BadInput, UnknownName

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {"relu": nn.ReLU, "silu": nn.SiLU}
)


class Normalize(nn.Module):
    """Subtracts a mean and divides by a standard deviation, per channel.

    Models of this project take images in [0, 1]; what a network was trained to see is part of the
    network, so that a radius means the same for every model.

    Attributes:
        mean: (1, C, 1, 1), or (1, 1, 1, 1) for one value shared by all channels.
        std: The same shape, positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take one value per channel, or one for all of them.

        Args:
            mean: What to subtract, in units of the images.
            std: What to divide by, in units of the images.

        Raises:
            BadInput: Their lengths differ or are 0, or a value is not finite or not positive.
        """
        super().__init__()
        if not mean or len(mean) != len(std):
            raise BadInput(
                f"The normalisation has {len(mean)} means and {len(std)} standard deviations; "
                "give one of each per channel, or one for all channels."
            )
        means = torch.tensor(mean, dtype=torch.float32, device="cpu")
        deviations = torch.tensor(std, dtype=torch.float32, device="cpu")
        if not (means.isfinite().all() and deviations.isfinite().all() and (deviations > 0).all()):
            raise BadInput(
                f"The normalisation has mean {list(mean)} and standard deviation {list(std)}; "
                "all must be finite and the deviations positive."
            )
        self.register_buffer("mean", means.view(1, -1, 1, 1))
        self.register_buffer("std", deviations.view(1, -1, 1, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalise (N, C, H, W) images."""
        return (inputs - self.mean) / self.std

    def extra_repr(self) -> str:
        """The numbers, for printing."""
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"


class Normalized(nn.Module):
    """A model behind a `Normalize` layer: takes images in [0, 1].

    Attributes:
        normalize: The layer in front.
        model: What sees the normalised images.
    """

    def __init__(self, normalize: Normalize, model: nn.Module) -> None:
        """Put `normalize` in front of `model`."""
        super().__init__()
        self.normalize = normalize
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, K) of (N, C, H, W) images."""
        logits: Tensor = self.model(self.normalize(inputs))
        return logits


def normalization(
    channels: int, mean: Sequence[float] | None, std: Sequence[float] | None
) -> nn.Module:
    """A `Normalize` layer for `channels` channels, or an identity where mean and std are None.

    Raises:
        BadInput: Only one of them is given, or their length is neither 1 nor `channels`.
    """
    if mean is None and std is None:
        return nn.Identity()
    if mean is None or std is None:
        raise BadInput("A normalisation needs both `mean` and `std`; only one was given.")
    if len(mean) not in (1, channels):
        raise BadInput(
            f"The normalisation has {len(mean)} values for a model with {channels} channels; "
            f"give 1 or {channels}."
        )
    return Normalize(mean, std)


def activation(name: str) -> nn.Module:
    """A new activation layer.

    Args:
        name: One of `ACTIVATIONS`.

    Raises:
        UnknownName: There is no such activation.
    """
    if name not in ACTIVATIONS:
        raise UnknownName("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]()


def check_sizes(*, classes: int, channels: int, width: int) -> None:
    """Refuse sizes that no network can have.

    Raises:
        BadInput: One of them is below 1.
    """
    for what, value in (("classes", classes), ("channels", channels), ("width", width)):
        if value < 1:
            raise BadInput(f"A model with {value} {what} was asked for; give at least 1.")


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Have torch's global generator of the CPU start from `seed` here, and restore it afterwards.

    The constructors of torch's layers draw from that generator and from no other. The same seed
    gives the same weights; whoever builds an ensemble gives each member its own.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def initialize(model: nn.Module) -> None:
    """Draw new weights, within `seeded`.

    Convolutions: normal with variance 2 / fan-out; batch norm: scale 1, shift 0; linear layers:
    normal with variance 1 / fan-in, bias 0. Seed with `torch.manual_seed` beforehand to get the
    same weights again.

    Reference:
        Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun: "Delving Deep into Rectifiers: Surpassing
        Human-Level Performance on ImageNet Classification", ICCV 2015.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            nn.init.zeros_(module.bias)

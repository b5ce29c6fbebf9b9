"""Images, adversaries and a model on which poisoning takes moments."""

from typing import Any

import torch
from torch import Tensor, nn

from robustkit.data import LabelledImages
from robustkit.models.cnn import CNN
from robustkit.models.frozen import frozen
from robustkit.models.layers import seeded
from robustkit.randomness import Streams
from robustkit.threat_models import (
    Availability,
    Budget,
    Convolutions,
    LpBall,
    PerturbationSet,
    Stage,
    ThreatModel,
)
from robustkit.training import SGD, Trainer
from robustkit.training.result import TrainResult

SMALL = f"{__name__}:Small"
NARROW = f"{__name__}:narrow"
SETS: dict[str, PerturbationSet] = {
    "linf": LpBall(norm="linf", radius=10 / 255),
    "l2": LpBall(norm="l2", radius=0.6),
    "convolution": Convolutions(kernel=3),
}


class Small(nn.Module):
    """A convolution and a linear layer, for images of any size."""

    def __init__(self, *, classes: int = 10, channels: int = 3, seed: int = 0) -> None:
        super().__init__()
        with seeded(seed):
            self.conv = nn.Conv2d(channels, 8, 3, padding=1)
            self.last = nn.Linear(8 * 4, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = nn.functional.adaptive_avg_pool2d(torch.relu(self.conv(inputs)), 2)
        answer: Tensor = self.last(hidden.flatten(1))
        return answer


def narrow(*, classes: int = 10, channels: int = 1, seed: int = 0) -> CNN:
    """The small network for a CPU, smaller still."""
    return CNN(classes=classes, channels=channels, width=8, seed=seed)


def images(
    n: int = 23,
    *,
    shape: tuple[int, int, int] = (3, 12, 9),
    classes: int = 4,
    floats: bool = False,
    seed: int = 0,
) -> LabelledImages:
    """Random images with some black and white pixels, of classes of unequal size."""
    generator = torch.Generator().manual_seed(seed)
    pixels = (1.2 * torch.rand(n, *shape, generator=generator) - 0.1).clamp(0, 1)
    labels = torch.randint(classes, (n,), generator=generator)
    return LabelledImages.from_tensors(
        pixels if floats else (255 * pixels).round().byte(),
        labels,
        spec="small",
        split="train",
        class_names=[f"class {number}" for number in range(classes)],
    )


def threat(norm: str, *, rate: float | None = 1.0, **changes: object) -> ThreatModel:
    """An adversary that publishes data, in one of `SETS`."""
    facts: dict[str, object] = {
        "name": "publisher",
        "stage": Stage.TRAINING,
        "goal": Availability(),
        "perturbation": SETS[norm],
        "budget": Budget(poison_rate=rate),
    }
    return ThreatModel(**{**facts, **changes})  # type: ignore[arg-type]


def streams(data: LabelledImages, *, seed: int = 3, device: str | torch.device = "cpu") -> Streams:
    """One stream per image."""
    return Streams.of(seed=seed, ids=data.ids.to(device), purpose="publishing")


def accuracy(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """How often a model is right."""
    with frozen(model), torch.no_grad():
        return float((model(inputs).argmax(1) == labels).float().mean())


class Watched(Trainer):
    """A trainer that remembers what it has trained."""

    def fit(self, model: nn.Module, *args: Any, **options: Any) -> TrainResult:  # noqa: ANN401
        result = super().fit(model, *args, **options)
        self.__dict__["model"], self.__dict__["result"] = model, result
        return result


def quick(*, epochs: int = 1, batch_size: int = 8, lr: float = 0.1) -> Trainer:
    """A trainer for a few short epochs."""
    return Trainer(epochs=epochs, batch_size=batch_size, optimizer=SGD(lr=lr), seed=1)

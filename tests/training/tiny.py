"""Data and models on which training takes moments."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from robustkit.data import LabelledImages
from robustkit.threat_models import LpBall, ThreatModel
from robustkit.training import SGD, Trainer

LINF = ThreatModel(name="linf", perturbation=LpBall(norm="linf", radius=0.1))
L2 = ThreatModel(name="l2", perturbation=LpBall(norm="l2", radius=0.5))


def tiny_data(n: int = 48, *, classes: int = 3, seed: int = 0) -> LabelledImages:
    """Images (1, 6, 6) whose brightest third tells their class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    images = 0.6 * torch.rand(n, 1, 6, 6, generator=generator)
    for row, label in enumerate(labels.tolist()):
        images[row, :, 2 * label : 2 * label + 2] += 0.3
    return LabelledImages.from_tensors(images.clamp(0, 1), labels, spec="tiny", split="train")


class Smooth(nn.Module):
    """Two linear layers without batch norm; optionally with dropout."""

    def __init__(self, *, classes: int = 3, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Linear(36, 16)
            self.drop = nn.Dropout(dropout)
            self.last = nn.Linear(16, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        answer: Tensor = self.last(self.drop(torch.tanh(self.first(inputs.flatten(1) - 0.5))))
        return answer


class Normed(nn.Module):
    """A convolution with batch norm."""

    def __init__(self, *, classes: int = 3, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(1, 8, 3, padding=1)
            self.norm = nn.BatchNorm2d(8)
            self.last = nn.Linear(8 * 9, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = nn.functional.avg_pool2d(torch.relu(self.norm(self.conv(inputs))), 2)
        answer: Tensor = self.last(hidden.flatten(1))
        return answer


def quick(
    *, epochs: int = 3, out: Path | None = None, resume: bool = False, lr: float = 0.1
) -> Trainer:
    """A trainer for a few short epochs."""
    return Trainer(
        epochs=epochs, batch_size=16, optimizer=SGD(lr=lr), out=out, resume=resume, seed=1
    )


def state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and buffers."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def differences(first: dict[str, Tensor], second: dict[str, Tensor]) -> Iterator[str]:
    """The names of tensors that differ by a bit."""
    assert list(first) == list(second)
    return (name for name in first if not torch.equal(first[name], second[name]))


def equal(first: nn.Module, second: nn.Module) -> bool:
    """Whether two models agree bit for bit."""
    return not list(differences(state(first), state(second)))

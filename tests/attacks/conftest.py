"""Classifiers of digits, trained in a second, that attacks are tried on."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from robustkit import data
from robustkit.randomness import Streams
from robustkit.threat_models import Objective
from robustkit.training import AdamW, Constant, Runtime, Trainer


class Counting(nn.Module):
    """Counts the rows it is asked about."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.rows = 0
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        self.rows += len(inputs)
        logits: Tensor = self.model(inputs)
        return logits


@dataclass(frozen=True)
class Victims:
    """A trained model with test images, all of which it classifies correctly."""

    model: nn.Module
    inputs: Tensor
    labels: Tensor
    ids: Tensor

    @property
    def objective(self) -> Objective:
        """Any wrong label."""
        return Objective(self.labels)

    @property
    def streams(self) -> Streams:
        """A stream for each image."""
        return Streams.of(seed=0, ids=self.ids)

    def first(self, count: int) -> "Victims":
        """The first images."""
        rows = slice(count)
        return Victims(self.model, self.inputs[rows], self.labels[rows], self.ids[rows])


def train_on_digits(classes: int) -> Victims:
    """A small network on the digits below `classes`, with 40 images of each test class at most."""
    train, test = (data.load("digits", split=split) for split in ("train", "test"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(512, classes),
        )
    Trainer(
        epochs=15,
        batch_size=64,
        optimizer=AdamW(lr=5e-3, weight_decay=0.0),
        schedule=Constant(),
        runtime=Runtime(device="cpu"),
    ).fit(model, train.take(train.labels < classes))
    model.eval()
    inputs, labels, ids = test.inputs(slice(None)), test.labels, test.ids
    with torch.no_grad():
        right = (labels < classes) & (model(inputs).argmax(1) == labels)
    return Victims(model, inputs[right][:40], labels[right][:40], ids[right][:40])


@pytest.fixture(scope="session")
def digits() -> Victims:
    """Ten classes."""
    return train_on_digits(10)


@pytest.fixture(scope="session")
def three_digits() -> Victims:
    """Three classes."""
    return train_on_digits(3)


@pytest.fixture(scope="session")
def two_digits() -> Victims:
    """Two classes."""
    return train_on_digits(2)

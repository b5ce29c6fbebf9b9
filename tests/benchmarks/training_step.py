"""A step of PGD training (5 steps of attack) against the bare passes it needs: as many forward and
backward passes over the same batch in the same modes, without projection, optimiser or logging. And
the attack's gradients with parameters frozen, as they are in every loss here, against parameters
that require gradients: with the model as it is, and compiled by `torch.compile`. Ratios are medians
over pairs of neighbouring runs in one process."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustkit.data import LabelledImages
from robustkit.models.cnn import CNN
from robustkit.models.frozen import frozen
from robustkit.models.resnet import BasicBlock, ResNet
from robustkit.threat_models import LpBall, ThreatModel
from robustkit.training import Runtime, Trainer
from robustkit.training.history import Record
from robustkit.training.losses import PGDTraining
from tests.benchmarks.timing import ratio

TITLE = "A training step against its bare passes"
ATTACK = 5
BATCH = 128
STEPS = 2
ROUNDS = 7


class Clock:
    """How long the steps of a training took, without what comes before and after."""

    def __init__(self) -> None:
        """Nothing has been timed."""
        self.seconds = self.started = 0.0

    def begin(self, *, epochs: int, steps: int, epoch: int, step: int) -> None:
        """The first step begins."""
        self.started = time.perf_counter()

    def step(self) -> None:
        """Another one is done."""
        self.seconds = time.perf_counter() - self.started

    def epoch(self, record: Record) -> None:
        """Nothing."""


def run() -> dict[str, Any]:
    """Steps, then gradients."""
    data = noise(BATCH * STEPS)
    networks: dict[str, Callable[[], nn.Module]] = {
        "CNN": lambda: CNN(classes=10, channels=1),
        "ResNet, 3 blocks, width 16": lambda: ResNet(
            BasicBlock, (1, 1, 1), classes=10, channels=1, width=16
        ),
    }
    rows = [step_row(name, make(), data) for name, make in networks.items()]
    for name, make in networks.items():
        rows.append(gradient_row(f"{name}, eager", make(), data))
        compiled = make()
        compiled.compile(backend="inductor")
        rows.append(gradient_row(f"{name}, compiled", compiled, data))
    return {
        "rows": rows,
        "setting": f"{BATCH} images of 1 x 28 x 28, channels last, {ROUNDS} rounds, float32",
    }


def noise(n: int) -> LabelledImages:
    """Images without a meaning."""
    images = torch.rand(n, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    return LabelledImages.from_tensors(images, torch.arange(n) % 10)


def step_row(name: str, model: nn.Module, data: LabelledImages) -> dict[str, Any]:
    """Our step, and its passes alone."""
    model.to(memory_format=torch.channels_last)
    pairs = [(ours(model, data), bare(model, data)) for _ in range(ROUNDS + 1)][1:]
    return {
        "what": f"PGD training step, {name}",
        "ours, ms": 1000 * median(mine for mine, _ in pairs) / STEPS,
        "against": "bare passes",
        "that, ms": 1000 * median(theirs for _, theirs in pairs) / STEPS,
        "ours / that": median(mine / theirs for mine, theirs in pairs),
    }


def ours(model: nn.Module, data: LabelledImages) -> float:
    """Seconds of an epoch of PGD training."""
    clock = Clock()
    threat = ThreatModel(name="linf", perturbation=LpBall(norm="linf", radius=0.1))
    trainer = Trainer(
        epochs=1,
        batch_size=BATCH,
        runtime=Runtime(device="cpu", channels_last=True),
        progress=clock,
    )
    trainer.fit(model, data, PGDTraining(threat=threat, steps=ATTACK))
    return clock.seconds


def bare(model: nn.Module, data: LabelledImages) -> float:
    """Seconds of the same passes."""
    model.to(memory_format=torch.channels_last)
    batches = [batch(data, number) for number in range(STEPS)]
    start = time.perf_counter()
    for inputs, labels in batches:
        with frozen(model):
            gradients(model, inputs, labels)
        model.train()
        torch.autograd.grad(F.cross_entropy(model(inputs), labels), list(model.parameters()))
    return time.perf_counter() - start


def batch(data: LabelledImages, number: int) -> tuple[Tensor, Tensor]:
    """One batch, ready to be passed."""
    rows = slice(number * BATCH, (number + 1) * BATCH)
    inputs = data.inputs(rows).contiguous(memory_format=torch.channels_last)
    return inputs, data.labels[rows]


def gradients(model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    """The gradients of an attack, and nothing done with them."""
    for _ in range(ATTACK):
        variable = inputs.detach().requires_grad_()
        loss = F.cross_entropy(model(variable), labels, reduction="sum")
        torch.autograd.grad(loss, variable)


def gradient_row(name: str, model: nn.Module, data: LabelledImages) -> dict[str, Any]:
    """Gradients with frozen parameters, and with parameters that require gradients."""
    model.eval().to(memory_format=torch.channels_last)
    inputs, labels = batch(data, 0)

    def held() -> None:
        with frozen(model):
            gradients(model, inputs, labels)

    def free() -> None:
        gradients(model, inputs, labels)

    held()  # compiles
    free()
    mine, theirs, times = ratio(held, free, rounds=ROUNDS)
    return {
        "what": f"attack's gradients, parameters frozen, {name}",
        "ours, ms": 1000 * mine / ATTACK,
        "against": "parameters require gradients",
        "that, ms": 1000 * theirs / ATTACK,
        "ours / that": times,
    }

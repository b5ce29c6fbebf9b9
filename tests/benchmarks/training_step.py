"""A step of PGD training (5 steps of attack) against the bare passes it needs: as many forward and
backward passes over the same batch in the same modes, without projection, optimiser or logging. And
the attack's gradients with parameters frozen, as they are in every loss here, against parameters
that require gradients: with the model as it is, and compiled by `torch.compile`. Where there is a
GPU, also ResNet-18 in bfloat16 on images of CIFAR-10's size. Ratios are medians over pairs of
neighbouring runs in one process."""

import time
from collections.abc import Callable, Iterator
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
GPU_BATCH = 512
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
        wait()
        self.seconds = time.perf_counter() - self.started

    def epoch(self, record: Record) -> None:
        """Nothing."""


def run() -> dict[str, Any]:
    """Steps, then gradients."""
    data = noise(BATCH * STEPS, (1, 28, 28))
    networks: dict[str, Callable[[], nn.Module]] = {
        "CNN": lambda: CNN(classes=10, channels=1),
        "ResNet, 3 blocks, width 16": lambda: ResNet(
            BasicBlock, (1, 1, 1), classes=10, channels=1, width=16
        ),
    }
    place = Runtime(device="cpu", channels_last=True)
    rows = [step_row(name, make(), data, place, BATCH) for name, make in networks.items()]
    if torch.cuda.is_available():
        rows.append(gpu_row())
    for name, make in networks.items():
        rows.append(gradient_row(f"{name}, eager", make(), data))
    compiled = networks[name]()
    compiled.compile(backend="inductor")
    rows.append(gradient_row(f"{name}, compiled", compiled, data))
    return {
        "rows": rows,
        "setting": f"{BATCH} images of 1 x 28 x 28, channels last, {ROUNDS} rounds, float32",
    }


def noise(n: int, shape: tuple[int, int, int]) -> LabelledImages:
    """Images without a meaning."""
    images = torch.rand(n, *shape, generator=torch.Generator().manual_seed(0))
    return LabelledImages.from_tensors(images, torch.arange(n) % 10)


def gpu_row() -> dict[str, Any]:
    """ResNet-18 in bfloat16."""
    model = ResNet(BasicBlock, (2, 2, 2, 2), classes=10, channels=3, width=64)
    place = Runtime(device="cuda", dtype="bf16", channels_last=True)
    data = noise(GPU_BATCH * STEPS, (3, 32, 32))
    row = step_row("ResNet-18, bf16", model, data, place, GPU_BATCH)
    rates = [1000 * GPU_BATCH / row[name] for name in ("ours, ms", "that, ms")]
    return {**row, "what": f"{row['what']}: {rates[0]:.0f} images/s of {rates[1]:.0f}"}


def step_row(
    name: str, model: nn.Module, data: LabelledImages, place: Runtime, size: int
) -> dict[str, Any]:
    """Our step, and its passes alone."""
    pairs = [
        (ours(model, data, place, size), bare(model, data, place, size)) for _ in range(ROUNDS + 1)
    ]
    mine, theirs = zip(*pairs[1:], strict=True)
    return {
        "what": f"PGD training step, {name}",
        "ours, ms": 1000 * median(mine) / STEPS,
        "against": "bare passes",
        "that, ms": 1000 * median(theirs) / STEPS,
        "ours / that": median(a / b for a, b in zip(mine, theirs, strict=True)),
    }


def ours(model: nn.Module, data: LabelledImages, place: Runtime, size: int) -> float:
    """Seconds of an epoch of PGD training."""
    clock = Clock()
    threat = ThreatModel(name="linf", perturbation=LpBall(norm="linf", radius=0.1))
    trainer = Trainer(epochs=1, batch_size=size, runtime=place, progress=clock)
    trainer.fit(model, data, PGDTraining(threat=threat, steps=ATTACK))
    return clock.seconds


def bare(model: nn.Module, data: LabelledImages, place: Runtime, size: int) -> float:
    """Seconds of the same passes."""
    with place.open() as session, session.placed(model):
        batches = [
            (session.images(inputs), labels.to(session.device))
            for inputs, labels in batched(data, size)
        ]
        wait()
        start = time.perf_counter()
        for inputs, labels in batches:
            with session.autocast():
                with frozen(model):
                    gradients(model, inputs, labels)
                model.train()
                loss = F.cross_entropy(model(inputs).float(), labels)
            torch.autograd.grad(loss, list(model.parameters()))
        wait()
        return time.perf_counter() - start


def batched(data: LabelledImages, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of an epoch in stored order."""
    for start in range(0, len(data), size):
        rows = slice(start, start + size)
        yield data.inputs(rows), data.labels[rows]


def wait() -> None:
    """Until a GPU has done what it was asked for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def gradients(model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    """The gradients of an attack, and nothing done with them."""
    for _ in range(ATTACK):
        variable = inputs.detach().requires_grad_()
        loss = F.cross_entropy(model(variable).float(), labels, reduction="sum")
        torch.autograd.grad(loss, variable)


def gradient_row(name: str, model: nn.Module, data: LabelledImages) -> dict[str, Any]:
    """Gradients with frozen parameters, and with parameters that require gradients."""
    model.eval().to(memory_format=torch.channels_last)
    inputs, labels = next(batched(data, BATCH))
    inputs = inputs.contiguous(memory_format=torch.channels_last)

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

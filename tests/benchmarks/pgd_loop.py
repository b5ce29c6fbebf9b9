"""PGD's search loop against the bare forward and backward passes that it makes. Both take the same
batch through the same frozen model the same number of times; the radius is so small that no example
leaves early. The batches are as wide as an evaluation on a CPU runs them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustkit import data, models
from robustkit.attacks import PGD
from robustkit.models.frozen import frozen
from robustkit.randomness import Streams
from robustkit.threat_models import LpBall, Objective, ThreatModel
from tests.benchmarks.timing import ratio

TITLE = "PGD's loop against bare passes"
STEPS = 10


def run() -> dict[str, Any]:
    """Time the real ResNet-18, and a small CNN where overhead shows most."""
    images = data.load("samples:cifar10")
    resnet = models.load("builtin:cifar10-resnet18")
    cnn = models.load("cnn", classes=10, channels=1, size=28)
    grey = data.load("samples:fashion-mnist")
    rows = []
    for name, model, inputs, rounds in (
        ("ResNet-18, 20 x 3 x 32 x 32", resnet, images.inputs(slice(None)), 3),
        ("CNN, 60 x 1 x 28 x 28", cnn, grey.inputs(slice(None)).repeat(3, 1, 1, 1), 15),
    ):
        for norm, radius in (("linf", 1e-6), ("l2", 1e-6), ("l1", 1e-6)):
            with frozen(model):
                labels = model(inputs).argmax(1)
                threat = ThreatModel(name=norm, perturbation=LpBall(norm=norm, radius=radius))  # type: ignore[arg-type]
                ours, bare, times = ratio(
                    attack(model, inputs, labels, threat),
                    passes(model, inputs, labels),
                    rounds=rounds,
                )
            rows.append(
                {
                    "model and batch": name,
                    "norm": norm,
                    "PGD, ms per step": ours * 1000 / STEPS,
                    "bare passes, ms per step": bare * 1000 / STEPS,
                    "ratio": times,
                }
            )
    return {"rows": rows, "setting": f"{STEPS} steps, seed 0"}


def attack(
    model: nn.Module, inputs: Tensor, labels: Tensor, threat: ThreatModel
) -> Callable[[], object]:
    """PGD of `STEPS` steps."""
    streams = Streams.of(seed=0, ids=torch.arange(len(inputs)))

    def call() -> object:
        return PGD(steps=STEPS).run(
            threat.view(model, streams),  # type: ignore[arg-type]
            inputs,
            Objective(labels),
            threat.allowed,
            streams=streams,
        )

    return call


def passes(model: nn.Module, inputs: Tensor, labels: Tensor) -> Callable[[], object]:
    """`STEPS` forward and backward passes and nothing else."""

    def call() -> object:
        for _ in range(STEPS):
            variable = inputs.clone().requires_grad_()
            loss = F.cross_entropy(model(variable), labels, reduction="sum")
            torch.autograd.grad(loss, variable)
        return None

    return call

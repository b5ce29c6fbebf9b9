"""The loops of PGD, APGD and Square against the bare passes that they make. Both take the same
batch through the same frozen model the same number of times, forward and backward for the first
two, forward for Square; the radius is so small that no example leaves early. An attempt is as long
as those of the plans at single classes, and batches are as wide as an evaluation on a CPU runs
them. CPU time of one thread, in pairs taken in turns."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustkit import data, models
from robustkit.attacks import APGD, PGD, EvasionAttack, Square, name_of
from robustkit.models.frozen import frozen
from robustkit.randomness import Streams
from robustkit.threat_models import LpBall, Objective, ThreatModel
from tests.benchmarks.timing import ratio

TITLE = "Attack loops against bare passes"
STEPS = 20
ATTACKS: tuple[EvasionAttack[Any], ...] = (
    PGD(steps=STEPS),
    APGD(steps=STEPS),
    Square(queries=STEPS),
)


def run() -> dict[str, Any]:
    """Time the real ResNet-18, and a small CNN where overhead shows most."""
    torch.set_num_threads(1)
    images = data.load("samples:cifar10")
    resnet = models.load("builtin:cifar10-resnet18")
    cnn = models.load("cnn", classes=10, channels=1, size=28)
    grey = data.load("samples:fashion-mnist")
    rows = [
        row(name, model, inputs, attack, norm, rounds=rounds)
        for name, model, inputs, rounds in (
            ("ResNet-18, 20 x 3 x 32 x 32", resnet, images.inputs(slice(None)), 3),
            ("CNN, 60 x 1 x 28 x 28", cnn, grey.inputs(slice(None)).repeat(3, 1, 1, 1), 15),
        )
        for attack in ATTACKS
        for norm in ("linf", "l2", "l1")
        if norm in attack.norms
    ]
    return {"rows": rows, "setting": f"{STEPS} steps or queries, seed 0"}


def row(
    name: str,
    model: nn.Module,
    inputs: Tensor,
    attack: EvasionAttack[Any],
    norm: Any,  # noqa: ANN401 - a literal
    *,
    rounds: int,
) -> dict[str, Any]:
    """One attack on one batch, and what passes alone take."""
    threat = ThreatModel(name=norm, perturbation=LpBall(norm=norm, radius=1e-6))
    with frozen(model):
        labels = model(inputs).argmax(1)
        ours, bare, times = ratio(
            searching(attack, model, inputs, labels, threat),
            asking(model, inputs) if isinstance(attack, Square) else passes(model, inputs, labels),
            rounds=rounds,
            clock=time.process_time,
        )
    return {
        "model and batch": name,
        "attack": name_of(attack),
        "norm": norm,
        "attack, ms per step": ours * 1000 / STEPS,
        "bare passes, ms per step": bare * 1000 / STEPS,
        "ratio": times,
    }


def searching(
    attack: EvasionAttack[Any],
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    threat: ThreatModel,
) -> Callable[[], object]:
    """An attack of `STEPS` steps."""
    streams = Streams.of(seed=0, ids=torch.arange(len(inputs)))

    def call() -> object:
        view = threat.view(model, streams)
        return attack.run(view, inputs, Objective(labels), threat.allowed, streams=streams)

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


def asking(model: nn.Module, inputs: Tensor) -> Callable[[], object]:
    """`STEPS` forward passes and nothing else."""

    def call() -> object:
        with torch.no_grad():
            for _ in range(STEPS):
                model(inputs)
        return None

    return call

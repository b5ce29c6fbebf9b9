"""What a gradient at the input costs in other ways than plain float32: in bfloat16 (`--dtype
bf16`), with weights in channels-last order, and compiled. A ratio below 1 is faster than plain
float32 in the same run. Whether bfloat16 pays depends on the processor's instructions; compiling
is paid for once per model and batch shape, which `first call` shows."""

import copy
import functools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from robustkit import models
from tests.benchmarks.timing import ratio, seconds

TITLE = "What a gradient costs"
ROUNDS = 5

Step = Callable[[], object]


def run() -> dict[str, Any]:
    """The real ResNet-18 and a small CNN."""
    torch.set_num_threads(1)
    source = torch.Generator().manual_seed(0)
    resnet = models.load("builtin:cifar10-resnet18")
    cnn = models.load("cnn", classes=10, channels=1, size=28)
    rows = [
        row
        for name, model, shape in (
            ("CNN, 64 x 1 x 28 x 28", cnn, (64, 1, 28, 28)),
            ("ResNet-18, 20 x 3 x 32 x 32", resnet, (20, 3, 32, 32)),
        )
        for row in measured(name, model.eval().requires_grad_(requires_grad=False), source, shape)
    ]
    return {"rows": rows, "setting": f"{ROUNDS} pairs, CPU time of one thread"}


def measured(
    name: str, model: nn.Module, source: torch.Generator, shape: tuple[int, ...]
) -> list[dict[str, Any]]:
    """One model, every way."""
    inputs = torch.rand(shape, generator=source)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    plain = gradient(model, inputs)
    ways = {
        "bfloat16": gradient(model, inputs, low=True),
        "channels last": gradient(last, inputs),
        "channels last, bfloat16": gradient(last, inputs, low=True),
        "compiled": gradient(torch.compile(model), inputs),  # type: ignore[arg-type]
    }
    rows = []
    for way, step in ways.items():
        first = seconds(step, time.process_time)
        plain()
        _, _, times = ratio(step, plain, rounds=ROUNDS, clock=time.process_time)
        rows.append({"model and batch": name, "way": way, "ratio": times, "first call, s": first})
    return rows


def gradient(model: nn.Module, inputs: Tensor, *, low: bool = False) -> Step:
    """One forward and one backward pass."""
    return functools.partial(_gradient, model, inputs, low)


def _gradient(model: nn.Module, inputs: Tensor, low: bool) -> Tensor:
    variable = inputs.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
        logits = model(variable)
    (slope,) = torch.autograd.grad(logits.float().logsumexp(1).sum(), variable)
    return slope

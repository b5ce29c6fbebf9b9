"""Networks on a CPU with freed memory kept, as on the command line, and as the C library has it by
default. Each measurement is a process of its own, on one thread, in turns; its time is the median
of its batches. Pages are those that the system had to make for each batch. How much the default
costs depends on where freed blocks happen to lie, and on what a page costs, which is most on
virtual machines."""

import os
import subprocess
import sys
from statistics import median
from typing import Any

TITLE = "Freed memory kept"
ROUNDS = 5
SCRIPT = """
import resource, sys, time
from statistics import median
import torch
from robustkit import models
from robustkit.memory import keep_freed
from robustkit.models.frozen import frozen
model, width, gradient, kept = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "True", sys.argv[4]
if kept == "True":
    assert keep_freed()
torch.set_num_threads(1)
shape = {"classes": 10, "channels": 1, "size": 28} if model != "builtin:cifar10-resnet18" else {}
network = models.load(model, **shape)
inputs = torch.rand(width, *((1, 28, 28) if shape else (3, 32, 32)))

def batch():
    variable = inputs.clone().requires_grad_(gradient)
    with torch.set_grad_enabled(gradient):
        answers = network(variable)
    if gradient:
        torch.autograd.grad(answers.sum(), variable)

times = []
with frozen(network):
    for _ in range(3):
        batch()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        start = time.process_time()
        batch()
        times.append(time.process_time() - start)
    made = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(median(times), made / 10, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def run() -> dict[str, Any]:
    """Each network, with and without gradients."""
    rows = [
        row(model, width, gradient=gradient)
        for model, width in (("cnn", 60), ("resnet-8", 60), ("builtin:cifar10-resnet18", 20))
        for gradient in (False, True)
    ]
    return {"rows": rows, "setting": f"untrained CNN and ResNet-8; medians of {ROUNDS} processes"}


def row(model: str, width: int, *, gradient: bool) -> dict[str, Any]:
    """One network, one batch."""
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(measured(model, width, gradient=gradient, kept=True))
        theirs.append(measured(model, width, gradient=gradient, kept=False))
    kept, default = ([median(one) for one in zip(*side, strict=True)] for side in (ours, theirs))
    return {
        "network": model,
        "batch": width,
        "passes": "forward and backward" if gradient else "forward",
        "kept, ms": kept[0] * 1000,
        "default, ms": default[0] * 1000,
        "kept / default": median(a[0] / b[0] for a, b in zip(ours, theirs, strict=True)),
        "pages, kept": kept[1],
        "pages, default": default[1],
        "peak MiB, kept": kept[2],
        "peak MiB, default": default[2],
    }


def measured(model: str, width: int, *, gradient: bool, kept: bool) -> list[float]:
    """Seconds and pages of a batch, and the peak of its process in MiB."""
    words = [model, str(width), str(gradient), str(kept)]
    unset = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", SCRIPT, *words]
    done = subprocess.run(command, capture_output=True, check=True, text=True, env=unset)
    return [float(word) for word in done.stdout.split()]

"""Queries per second of CGBA, all images searched together, against the network alone in batches as
wide (`share`), and against the authors' code, which searches one image after the other (`times`).
No search can be faster than the network alone: `times at most` is what that would be. `rows per
query` counts the rows that fill up batches too. The small network has been trained on the images,
so that there are boundaries to search. Seconds are the process's on a CPU, with one thread, and the
clock's on a GPU. The network alone is timed before and after each search. ROBUSTKIT_CGBA names a
clone of https://github.com/Farhamdur/CGBA; without it the columns about it stay empty."""

import contextlib
import time
from typing import Any

import torch
from torch import Tensor, nn

from robustkit import data, models
from robustkit.attacks import CGBA
from robustkit.models.cnn import CNN
from robustkit.randomness import Streams
from robustkit.threat_models import Access, LpBall, Meter, Objective, grant
from robustkit.training import AdamW, Constant, Runtime, Trainer
from tests.benchmarks.foreign_decisions import official_cgba

TITLE = "Speed of CGBA"
QUERIES = 500
IMAGES = (20, 100)
# Images on which the authors' code is timed.
FEW = 4


def run() -> dict[str, Any]:
    """Both networks at each number of images."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [row for title, net in networks(device) for row in measured(title, net, device)]
    finally:
        torch.set_num_threads(threads)
    return {"rows": rows, "setting": f"{QUERIES} queries per image, seed 0"}


def networks(device: torch.device) -> list[tuple[str, nn.Module]]:
    """One whose own cost is nearly all, and one that costs next to nothing."""
    large = models.load("builtin:cifar10-resnet18", device=str(device)).eval()
    return [("ResNet-18", large), ("CNN, width 8", trained(CNN(width=8), device))]


def trained(net: nn.Module, device: torch.device) -> nn.Module:
    """The network, fitted to the sample images: without training it gives them all one label."""
    Trainer(
        epochs=60,
        batch_size=20,
        optimizer=AdamW(lr=1e-2, weight_decay=0.0),
        schedule=Constant(),
        runtime=Runtime(device=str(device)),
    ).fit(net, data.load("samples:cifar10"))
    return net.eval()


def measured(title: str, net: nn.Module, device: torch.device) -> list[dict[str, Any]]:
    """Each number of images."""
    images = data.load("samples:cifar10").inputs(slice(None)).to(device)
    official = authors(net, images[:FEW], device)
    rows = []
    for count in IMAGES:
        inputs = images.repeat(-(-count // len(images)), 1, 1, 1)[:count]
        before = alone(net, inputs, device)
        ours, rows_run = searched(net, inputs, device)
        network = (before + alone(net, inputs, device)) / 2
        rows.append(
            {
                "network": title,
                "images": count,
                "CGBA, queries/s": ours,
                "network alone, rows/s": network,
                "share": ours / network,
                "rows per query": rows_run,
                "official, queries/s": "-" if official is None else official,
                "times": "-" if official is None else ours / official,
                "times at most": "-" if official is None else network / official,
            }
        )
    return rows


def now(device: torch.device) -> float:
    """Seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


@torch.inference_mode()
def alone(net: nn.Module, inputs: Tensor, device: torch.device, *, least: float = 3.0) -> float:
    """Rows per second of the network itself."""
    net(inputs)
    start, rows = now(device), 0
    while now(device) - start < least:
        net(inputs)
        rows += len(inputs)
    return rows / (now(device) - start)


def labels_of(net: nn.Module, inputs: Tensor) -> Tensor:
    """What the network says itself, so that every image is attacked."""
    with torch.inference_mode():
        labels: Tensor = net(inputs).argmax(1).clone()
    return labels


def searched(net: nn.Module, inputs: Tensor, device: torch.device) -> tuple[float, float]:
    """Queries per second of CGBA, and rows run per query."""
    labels = labels_of(net, inputs)
    ids = torch.arange(len(inputs), device=device)
    streams = Streams.of(seed=0, ids=ids)
    meter = Meter(net, streams, width=len(inputs), queries=QUERIES)
    ball = LpBall(norm="l2", radius=0.5)
    start = now(device)
    CGBA().run(grant(meter, Access.DECISION), inputs, Objective(labels), ball, streams=streams)
    seconds, spent = now(device) - start, int(meter.ledger.forward.sum())
    return spent / seconds, meter.ledger.rows_run / spent


class _Enough(BaseException):
    """The authors' code has asked often enough."""


class _Counting(nn.Module):
    """Ends the search after so many queries."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.asked = 0

    def forward(self, inputs: Tensor) -> Tensor:
        if self.asked >= QUERIES:
            raise _Enough
        self.asked += len(inputs)
        answer: Tensor = self.net(inputs)
        return answer


def authors(net: nn.Module, images: Tensor, device: torch.device) -> float | None:
    """Queries per second of the authors' code as it is; None where it is not at hand."""
    try:
        search = official_cgba()
    except FileNotFoundError:
        return None
    start, asked = now(device), 0
    for number in range(len(images)):
        torch.manual_seed(number)
        counting = _Counting(net)
        with contextlib.suppress(_Enough):
            search(counting, images[number : number + 1], number)
        asked += counting.asked
    return asked / (now(device) - start)

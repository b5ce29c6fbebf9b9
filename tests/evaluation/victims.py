"""What the evaluation is tried on: a robustly trained classifier of digits, and how to compare.

Under the standard plan it keeps 30 to 70 % of the digits, so that a verdict can be wrong both ways.
"""

import functools
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustkit import data
from robustkit.data import LabelledImages
from robustkit.models.cnn import CNN
from robustkit.report import EvasionReport
from robustkit.threat_models import ThreatModel, load

# Radii at which the classifier keeps about half of the digits.
RADII = {"linf": 0.2, "l2": 0.8, "l1": 1.5}


def digits(n: int = 40) -> LabelledImages:
    """The first `n` test digits."""
    return data.load("digits", n=n)


def threat(name: str = "linf") -> ThreatModel:
    """A preset at a radius that fits the digits."""
    return load(name).with_radius(RADII[name])


def network(*, classes: int = 10, seed: int = 0) -> CNN:
    """A tiny network for 8 x 8 digits, with new weights."""
    return CNN(classes=classes, channels=1, width=8, seed=seed)


@functools.cache
def robust_state(classes: int = 10) -> dict[str, Tensor]:
    """The weights of a network trained on attacked digits below `classes`, in two seconds."""
    train = data.load("digits", split="train")
    keep = train.labels < classes
    inputs, labels = train.inputs(keep), train.labels[keep]
    model = network(classes=classes).train()
    order = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(8):
        for rows in torch.randperm(len(inputs), generator=order).chunk(12):
            changed = _pgd(model, inputs[rows], labels[rows])
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(model(changed), labels[rows]))
            optimizer.step()
    return model.state_dict()


def _pgd(model: nn.Module, clean: Tensor, labels: Tensor) -> Tensor:
    """Three steps of plain linf PGD."""
    changed = clean
    for _ in range(3):
        changed = changed.detach().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(model(changed), labels), changed)
        step = (changed + 0.075 * slope.sign()).clamp(clean - 0.15, clean + 0.15)
        changed = step.detach().clamp(0, 1)
    return changed


def victim(classes: int = 10) -> CNN:
    """The trained network, a fresh copy in eval mode."""
    model = network(classes=classes)
    model.load_state_dict(robust_state(classes))
    return model.eval()


@dataclass
class Count:
    """What a counting model was asked."""

    calls: int = 0
    rows: int = 0


class Counting(nn.Module):
    """Counts the calls and rows it is asked about, and does something at the start of each call."""

    def __init__(self, model: nn.Module, hook: Any = None) -> None:  # noqa: ANN401
        super().__init__()
        self.model = model
        self.count = Count()
        self.hook = hook
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        self.count.calls += 1
        self.count.rows += len(inputs)
        if self.hook is not None:
            self.hook(self.count)
        logits: Tensor = self.model(inputs)
        return logits


def outcome(report: EvasionReport) -> dict[str, Any]:
    """All of a report that an interruption must not change: everything but times and rows run."""
    attacks = [
        {name: value for name, value in asdict(row).items() if name != "seconds"}
        for row in report.attacks
    ]
    return {
        "examples": report.examples,
        "attacks": attacks,
        "skipped": report.skipped,
        "flags": report.flags,
        "accuracies": (report.clean_accuracy, report.robust_accuracy, report.accuracies),
        "violations": report.violations,
        "verdict": report.verdict,
        "passes": (report.cost.forward, report.cost.backward),
        "facts": (report.model, report.data, report.threat, report.seed),
    }

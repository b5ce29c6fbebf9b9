"""What the evaluation is tried on: a robustly trained classifier of digits, and how to compare.

Under the standard plan it keeps 30 to 70 % of the digits, so that a verdict can be wrong both ways.
"""

import functools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from robustkit import data
from robustkit.data import LabelledImages
from robustkit.models.cnn import CNN
from robustkit.report import EvasionReport, read
from robustkit.threat_models import ThreatModel, load
from robustkit.training import AdamW, OneCycle, Trainer
from robustkit.training.losses.pgd import PGDTraining

# Radii at which the classifier keeps about half of the digits.
RADII = {"linf": 0.2, "l2": 0.8, "l1": 1.2}


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
    """The weights of a network trained on attacked digits below `classes`, in seconds."""
    train = data.load("digits", split="train")
    keep = train.labels < classes
    model = network(classes=classes)
    trainer = Trainer(epochs=8, batch_size=60, optimizer=AdamW(lr=0.02), schedule=OneCycle())
    adversary = load("linf").with_radius(0.15)
    loss = PGDTraining(threat=adversary, steps=3, step_size=0.5, start="clean")
    trainer.fit(model, (train.inputs(keep), train.labels[keep]), loss)
    return model.state_dict()


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
        "curves": report.curves,
        "violations": report.violations,
        "verdict": report.verdict,
        "passes": (report.cost.forward, report.cost.backward),
        "facts": (report.model, report.data, report.threat, report.seed),
    }


def broken(folder: Path) -> dict[int, Tensor]:
    found = load_file(folder / "examples.safetensors")
    return dict(zip(found["ids"].tolist(), found["inputs"], strict=True))


def same(folder: Path, report: EvasionReport, alone: tuple[Path, EvasionReport]) -> None:
    """The same verdicts, passes and images as one process gives, and nothing left lying about."""
    assert outcome(report) == outcome(alone[1])
    written = read(folder / "report.json")
    assert isinstance(written, EvasionReport)
    assert outcome(written) == outcome(alone[1])
    images, expected = broken(folder), broken(alone[0])
    assert images.keys() == expected.keys()
    assert all(torch.equal(images[id_], expected[id_]) for id_ in images)
    assert {path.name for path in folder.iterdir()} == {path.name for path in alone[0].iterdir()}

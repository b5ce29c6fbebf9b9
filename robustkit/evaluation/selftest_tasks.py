"""What the self-test tries attacks on: real images, and what plain PGD leaves standing of them."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustkit import data
from robustkit.threat_models import LpBall, ThreatModel
from robustkit.training import AdamW, Constant, Trainer
from robustkit.training.losses.pgd import PGDTraining

Norm = Literal["linf", "l2"]

# Radii at which the classifier keeps about a third of the digits.
RADII: Mapping[Norm, float] = {"linf": 0.2, "l2": 0.8}
EXAMPLES = 150
SEED = 0
_STEPS = 40


@dataclass(frozen=True, kw_only=True)
class Task:
    """Images whose robust accuracy under a plain attack is known.

    Attributes:
        model: The classifier.
        inputs: (N, C, H, W).
        labels: (N,).
        threat: The adversary.
        reference: Robust accuracy under the plain attack.
    """

    model: nn.Module
    inputs: Tensor
    labels: Tensor
    threat: ThreatModel
    reference: float


@functools.cache
def task_of(norm: Norm, where: Literal["ends", "middle"]) -> Task:
    """Digits as they are, or moved into the middle of the value range: half as bright and wide."""
    images = data.load("digits", n=EXAMPLES)
    inputs, labels = images.inputs(slice(None)), images.labels
    model: nn.Module = _classifier()
    radius = RADII[norm]
    if where == "middle":
        inputs, radius, model = inputs / 2 + 0.25, radius / 2, _Middle(model).eval()
    ball = LpBall(norm=norm, radius=radius)
    points = plain_pgd(model, inputs, labels, ball, steps=_STEPS)
    with torch.no_grad():
        broken = model(points).argmax(1) != labels
    return Task(
        model=model,
        inputs=inputs,
        labels=labels,
        threat=ThreatModel(name=f"selftest {norm}", perturbation=ball),
        reference=1 - float(broken.double().mean()),
    )


class _Middle(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(2 * inputs - 0.5)
        return logits


@torch.enable_grad()
def plain_pgd(
    model: nn.Module, clean: Tensor, labels: Tensor, ball: LpBall, *, steps: int
) -> Tensor:
    """Projected gradient descent on the cross-entropy, in linf or l2, from the clean images.

    The reference: it shares no code with the attacks that are compared with it. An image that is
    misclassified on the way keeps that point.

    Args:
        model: In eval mode.
        clean: (N, C, H, W).
        labels: (N,).
        ball: What may be changed.
        steps: Steps of 2.5 / steps of the radius.

    Returns:
        Like `clean`.
    """
    size = 2.5 * ball.radius / steps
    point, kept, won = clean, clean, torch.zeros_like(labels, dtype=torch.bool)
    for _ in range(steps + 1):
        point = point.detach().requires_grad_()
        logits = model(point)
        (slope,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), point)
        kept = torch.where(won[:, None, None, None], kept, point.detach())
        won = won | (logits.argmax(1) != labels)
        with torch.no_grad():
            if ball.norm == "linf":
                change = (point + size * slope.sign() - clean).clamp(-ball.radius, ball.radius)
            else:
                long = point + size * slope / _length(slope).clamp_min(1e-30) - clean
                change = long * (ball.radius / _length(long).clamp_min(1e-30)).clamp_max(1)
            point = (clean + change).clamp(ball.low, ball.high)
    return kept


def _length(change: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(change.flatten(1), dim=1)
    return length[:, None, None, None]


@functools.cache
def _classifier() -> nn.Module:
    """A small smooth network trained on attacked digits, in a second or two.

    On a smooth one plain PGD converges, so that a difference means a fault.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 10))
    trainer = Trainer(
        epochs=8, batch_size=60, optimizer=AdamW(lr=5e-3), schedule=Constant(), seed=SEED
    )
    adversary = ThreatModel(name="selftest", perturbation=LpBall(norm="linf", radius=0.15))
    loss = PGDTraining(threat=adversary, steps=3, step_size=2.5 / 3, start="clean")
    trainer.fit(model, data.load("digits", split="train"), loss)
    return model.eval()

"""The members that the benchmark `crossmax` aggregates: small networks, trained one by one."""

from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from torch import nn

from robustkit import data
from robustkit.files import write_atomically
from robustkit.models.cnn import CNN
from robustkit.threat_models import LpBall, ThreatModel
from robustkit.training import SGD, OneCycle, Runtime, Trainer
from robustkit.training.losses import Loss, PGDTraining, cross_entropy

LIGHT = ThreatModel(name="linf", perturbation=LpBall(norm="linf", radius=8 / 255))
# What the members have learnt, by name: nothing but clean images, or one step of FGSM each.
LESSONS: dict[str, Loss] = {
    "standard": cross_entropy,
    "lightly adversarial": PGDTraining(threat=LIGHT, steps=1, step_size=1.0, start="clean"),
}


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything; the defaults are the benchmark's."""

    members: int = 8
    width: int = 8
    train: int = 12_000
    epochs: int = 4
    images: int = 500
    steps: int = 30
    drawn_images: int = 500
    drawn_steps: int = 10

    @property
    def learnt(self) -> list[int]:
        """What a trained network depends on."""
        return [self.members, self.width, self.train, self.epochs]


def member(place: Path, lesson: str, seed: int, size: Size) -> nn.Module:
    """A trained network, kept in a folder; seeds differ in weights, images and their order."""
    name = f"{lesson.replace(' ', '-')}-{size.width}-{size.train}-{size.epochs}-{seed}"
    file = place / "crossmax" / f"{name}.safetensors"
    model = CNN(classes=10, channels=1, width=size.width, seed=seed)
    if not file.is_file():
        train = data.load(
            "fashion-mnist", split="train", n=size.train, select="stratified", seed=seed
        )
        Trainer(
            epochs=size.epochs,
            batch_size=128,
            optimizer=SGD(lr=0.1),
            schedule=OneCycle(),
            seed=seed,
            runtime=Runtime(device="cpu", channels_last=True),
        ).fit(model, train, LESSONS[lesson])
        write_atomically(file, safetensors.torch.save(model.state_dict()))
    model.load_state_dict(safetensors.torch.load_file(file))
    return model.eval()

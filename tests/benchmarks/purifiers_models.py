"""What the benchmark `purifiers` compares: small networks, a fusion of two, and a filter."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from torch import nn

from robustkit import data
from robustkit.data import LabelledImages
from robustkit.defenses import LQVAE, ContextualFusion, Filtered, Fused
from robustkit.files import write_atomically
from robustkit.models.cnn import CNN
from robustkit.randomness import Streams
from robustkit.threat_models import LpBall, ThreatModel
from robustkit.training import SGD, AdamW, Hide, OneCycle, Runtime, Trainer
from robustkit.training.augmentation import Augmentation

ANY = ThreatModel(name="linf", perturbation=LpBall(norm="linf", radius=0.1))
# What the networks have seen of each image.
LESSONS: dict[str, tuple[Augmentation, ...]] = {
    "plain": (),
    "context": (Hide(part="centre"),),
    "object": (Hide(part="surround"),),
}
FUSION = ContextualFusion()


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything; the defaults are the benchmark's."""

    width: int = 16
    train: int = 12_000
    epochs: int = 6
    fusion_epochs: int = 3
    filter_width: int = 8
    filter_epochs: int = 6
    images: int = 500
    steps: int = 20
    drawn_steps: int = 10
    average: int = 8
    reported: int = 100

    @property
    def learnt(self) -> list[int]:
        """What the trained models depend on."""
        return [
            self.width,
            self.train,
            self.epochs,
            self.fusion_epochs,
            self.filter_width,
            self.filter_epochs,
        ]


def trained(
    place: Path, name: str, size: Size, model: nn.Module, teach: Callable[[], None]
) -> None:
    """Give a model the weights that lie in a folder; without any, teach it and put them there."""
    words = "-".join(map(str, size.learnt))
    file = place / "purifiers" / f"{name}-{words}.safetensors"
    if not file.is_file():
        teach()
        write_atomically(file, safetensors.torch.save(model.state_dict()))
    model.load_state_dict(safetensors.torch.load_file(file))
    model.eval().requires_grad_(requires_grad=False)


def lessons(size: Size) -> LabelledImages:
    """What everything learns from."""
    return data.load("fashion-mnist", split="train", n=size.train, select="stratified")


def network(place: Path, lesson: str, size: Size) -> CNN:
    """A classifier, by what it has seen; seeds differ."""
    seed = list(LESSONS).index(lesson)
    model = CNN(classes=10, channels=1, width=size.width, seed=seed)
    trainer = Trainer(
        epochs=size.epochs,
        optimizer=SGD(lr=0.1),
        schedule=OneCycle(),
        augmentation=LESSONS[lesson],
        seed=seed,
        runtime=Runtime(device="cpu", channels_last=True),
    )
    trained(place, lesson, size, model, lambda: _fit(trainer, model, size))
    return model


def _fit(trainer: Trainer, model: nn.Module, size: Size) -> None:
    trainer.fit(model, lessons(size))


def _adam(lr: float, epochs: int, batch_size: int) -> Trainer:
    return Trainer(
        epochs=epochs,
        batch_size=batch_size,
        optimizer=AdamW(lr=lr, weight_decay=0.0),
        schedule=OneCycle(),
        runtime=Runtime(device="cpu", channels_last=True),
    )


def fusion(place: Path, size: Size) -> Fused:
    """The networks of contexts and of objects under one head."""
    members = [network(place, lesson, size) for lesson in ("context", "object")]
    fused = Fused(members, classes=10, shape=(1, 28, 28))

    def teach() -> None:
        train = lessons(size)
        own = Streams.of(seed=0, ids=train.ids)
        made = FUSION.protect(
            members, train, ANY, trainer=_adam(0.01, size.fusion_epochs, 128), streams=own
        )
        fused.load_state_dict(made.state_dict())

    trained(place, "fusion", size, fused, teach)
    return fused


def filtered(place: Path, size: Size, *, sampled: bool) -> Filtered:
    """The plain classifier behind a filter that draws, or takes the means; one filter for both."""
    classifier = network(place, "plain", size)
    defense = LQVAE(width=size.filter_width, sampled=sampled)
    made = defense.assembled(classifier, 1)

    def teach() -> None:
        train = lessons(size)
        own = Streams.of(seed=0, ids=train.ids)
        trainer = _adam(0.005, size.filter_epochs, 32)
        drawing = dataclasses.replace(defense, sampled=True)
        found = drawing.protect([classifier], train, ANY, trainer=trainer, streams=own)
        made.load_state_dict(found.state_dict())

    trained(place, "filter", size, made, teach)
    return made

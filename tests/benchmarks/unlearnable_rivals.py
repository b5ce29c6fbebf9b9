"""Methods that make data unlearnable, on Fashion-MNIST, each beside noise of the same length. A
small network learns from what a method publishes and is tested on clean images. The control is
uniform noise whose mean Euclidean length, on the published bytes, is at least the method's; of CUDA
the universal blur, one of its filters for all classes. Lowers by: accuracy after the control less
that after the method, in points, mean over test images with the normal 95 % interval of the paired
differences, each image averaged over the seeds of the network, and in brackets each seed's. The
adversarial learner trains by PGD in linf at half the methods' radius, which is what REM is made
against. Methods that train a model of their own have the learner's architecture for it, from
another seed: their best case. Where steps were cut for a CPU, the setting says so."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from robustkit import data
from robustkit.attacks.base import PoisoningAttack
from robustkit.data import LabelledImages
from robustkit.models.cnn import CNN
from robustkit.models.frozen import frozen
from robustkit.randomness import Streams
from robustkit.statistics import wilson
from robustkit.threat_models import (
    Availability,
    Budget,
    Convolutions,
    LpBall,
    PerturbationSet,
    Stage,
    ThreatModel,
)
from robustkit.training import SGD, OneCycle, Runtime, Trainer
from robustkit.training.losses import Loss, PGDTraining, cross_entropy
from robustkit.unlearnable import (
    AR,
    EM,
    LSP,
    REM,
    TAP,
    ConvolutionUnlearnable,
    EMClassWise,
    Key,
    UniformNoise,
    UniversalBlur,
)
from robustkit.unlearnable.publishing import settled
from tests.benchmarks.crossmax import paired_mean
from tests.benchmarks.keeping import folder, kept

TITLE = "Unlearnable data: each method beside noise of the same length"
# Nobody is to be protected here; a figure that can be run again is.
KEY = Key(b"a key that everybody may know")
WIDTH = 8
PLAIN, ADVERSARIAL = "plain", "adversarial"
# REM's steps on a CPU.
FEW = {"steps": 5, "adversary_steps": 2}
Bits = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything; the defaults are the benchmark's."""

    train: int = 6000
    test: int = 5000
    epochs: int = 8
    batch: int = 64
    seeds: int = 2
    linf: float = 16 / 255
    l2: float = 1.0
    steps: int = 20
    own_epochs: int = 2
    robust_epochs: int = 4
    robust_seeds: int = 1


@dataclass(frozen=True, kw_only=True)
class Rival:
    """One method, what it may change, who learns from it, and how long its own model learns."""

    method: PoisoningAttack
    allowed: PerturbationSet
    learners: Sequence[str] = (PLAIN,)
    epochs: int = 0


def network(*, classes: int = 10, channels: int = 1, seed: int = 0) -> nn.Module:
    """The architecture of learners and of the methods' own models."""
    return CNN(classes=classes, channels=channels, width=WIDTH, seed=seed)


def rivals(size: Size) -> dict[str, Rival]:
    """The rows, by name."""
    own = f"{__name__}:network"
    linf, l2 = LpBall(norm="linf", radius=size.linf), LpBall(norm="l2", radius=size.l2)
    stride = 2 / size.steps
    both = (PLAIN, ADVERSARIAL)
    return {
        "CUDA": Rival(method=ConvolutionUnlearnable(key=KEY), allowed=Convolutions(kernel=3)),
        "LSP": Rival(method=LSP(), allowed=l2),
        "AR": Rival(method=AR(), allowed=l2),
        "EM": Rival(
            method=EM(architecture=own, batches=5, steps=5, step_size=0.4),
            allowed=linf,
            learners=both,
            epochs=size.own_epochs,
        ),
        "EM class-wise": Rival(
            method=EMClassWise(architecture=own), allowed=linf, epochs=size.epochs
        ),
        "TAP": Rival(
            method=TAP(architecture=own, steps=size.steps, step_size=stride),
            allowed=linf,
            epochs=size.epochs,
        ),
        "REM": Rival(
            method=REM(
                architecture=own,
                steps=FEW["steps"],
                step_size=2 / FEW["steps"],
                adversary_steps=FEW["adversary_steps"],
                adversary_step_size=1.4 / FEW["adversary_steps"],
                draws=1,
            ),
            allowed=linf,
            learners=both,
            epochs=size.robust_epochs,
        ),
    }


def run(size: Size | None = None) -> dict[str, Any]:
    """Every method beside its matched control, and what follows."""
    size = size or Size()
    clean = data.load("fashion-mnist", split="train", n=size.train, select="stratified")
    test = data.load("fashion-mnist", n=size.test)
    found: dict[str, Piece] = {}
    with folder() as place:
        facts = dataclasses.asdict(size)
        for name, make in pieces(clean, test, size).items():
            piece = kept(place, "unlearnable-rivals", {**facts, "piece": name}, make)
            found[name] = Piece.unpacked(piece)
    rows = [row(name, learner, piece) for name, piece in found.items() for learner in piece.method]
    return {
        "rows": rows,
        "conclusions": [
            conclusion(name, learner, piece)
            for name, piece in found.items()
            for learner in piece.control
        ],
        "setting": (
            f"CNN of width {WIDTH}; {size.train:,} training and {size.test:,} test images, "
            f"{size.epochs} epochs in batches of {size.batch}, seeds 0 to {size.seeds - 1}; "
            f"radii: linf {size.linf * 255:g}/255, l2 {size.l2:g}; EM 5 steps per 5 batches, "
            f"at most {size.own_epochs} epochs; TAP {size.steps} steps; REM {FEW['steps']} steps, "
            f"{FEW['adversary_steps']} of its adversary, 1 draw, {size.robust_epochs} epochs; "
            f"adversarial learner: 2 steps, {size.robust_seeds} seeds"
        ),
    }


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one method and its control did, by learner: (seeds, test images) right answers.

    Attributes:
        allowed: The perturbation set in words.
        lengths: Mean Euclidean length of the method's changes and of the control's.
        method: After the method.
        control: After the control; empty where there is none.
    """

    allowed: str
    lengths: Sequence[float]
    method: Mapping[str, Bits]
    control: Mapping[str, Bits]

    def packed(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "allowed": self.allowed,
            "lengths": list(self.lengths),
            "method": {name: _packed(bits) for name, bits in self.method.items()},
            "control": {name: _packed(bits) for name, bits in self.control.items()},
        }

    @classmethod
    def unpacked(cls, piece: Mapping[str, Any]) -> "Piece":
        """What `packed` gave."""
        return cls(
            allowed=piece["allowed"],
            lengths=piece["lengths"],
            method={name: _unpacked(bits) for name, bits in piece["method"].items()},
            control={name: _unpacked(bits) for name, bits in piece["control"].items()},
        )


def pieces(
    clean: LabelledImages, test: LabelledImages, size: Size
) -> dict[str, Callable[[], dict[str, Any]]]:
    """What is measured, by name: the clean images, noise at the radius, and each method."""
    noise = threat(LpBall(norm="linf", radius=size.linf))

    def unchanged() -> dict[str, Any]:
        right = {learner: learnt(clean, test, learner, size) for learner in (PLAIN, ADVERSARIAL)}
        return Piece(allowed="", lengths=(0.0,), method=right, control={}).packed()

    def noisy() -> dict[str, Any]:
        images = published(UniformNoise(), noise, clean, size)
        right = {PLAIN: learnt(images, test, PLAIN, size)}
        lengths = (length(images, clean),)
        return Piece(allowed="linf", lengths=lengths, method=right, control={}).packed()

    return {
        "clean images": unchanged,
        "uniform noise": noisy,
        **{
            name: partial(compared, rival, clean, test, size)
            for name, rival in rivals(size).items()
        },
    }


def compared(
    rival: Rival, clean: LabelledImages, test: LabelledImages, size: Size
) -> dict[str, Any]:
    """One method and its control under the same learners."""
    images = published(rival.method, threat(rival.allowed), clean, size, epochs=rival.epochs)
    if isinstance(rival.method, ConvolutionUnlearnable):
        other = published(UniversalBlur(key=KEY), threat(rival.allowed), clean, size)
    else:
        other = as_long(images, clean, size)
    return Piece(
        allowed=rival.allowed.norm,
        lengths=(length(images, clean), length(other, clean)),
        method={name: learnt(images, test, name, size) for name in rival.learners},
        control={name: learnt(other, test, name, size) for name in rival.learners},
    ).packed()


def threat(allowed: PerturbationSet) -> ThreatModel:
    """Who publishes all of the data."""
    return ThreatModel(
        name="publisher",
        stage=Stage.TRAINING,
        goal=Availability(),
        perturbation=allowed,
        budget=Budget(poison_rate=1.0),
    )


def published(
    method: PoisoningAttack,
    adversary: ThreatModel,
    clean: LabelledImages,
    size: Size,
    *,
    epochs: int = 1,
) -> LabelledImages:
    """The images as the method publishes them, in memory."""
    streams = Streams.of(seed=0, ids=clean.ids, purpose="unlearnable rivals")
    trainer = teacher(size, epochs=max(1, epochs), seed=1000)
    return settled(method.run(clean, adversary, trainer=trainer, streams=streams)).data


def as_long(images: LabelledImages, clean: LabelledImages, size: Size) -> LabelledImages:
    """Uniform noise whose mean length on the published bytes is at least that of some changes."""
    wanted = radius = length(images, clean)
    while True:
        adversary = threat(LpBall(norm="l2", radius=radius))
        noise = published(UniformNoise(), adversary, clean, size)
        reached = length(noise, clean)
        if reached >= wanted:
            return noise
        # Clipping and rounding take some of it; a little more than was missing.
        radius *= 1.01 * wanted / reached


def length(images: LabelledImages, clean: LabelledImages) -> float:
    """Mean Euclidean length of the changes."""
    change = images.inputs(slice(None)) - clean.inputs(slice(None))
    return float(change.flatten(1).norm(dim=1).mean())


def learnt(images: LabelledImages, test: LabelledImages, learner: str, size: Size) -> Bits:
    """(seeds, n): which test images networks have right that learnt from some images."""
    seeds = size.seeds if learner == PLAIN else size.robust_seeds
    return np.stack([_once(images, test, learner, seed, size) for seed in range(seeds)])


def _once(
    images: LabelledImages, test: LabelledImages, learner: str, seed: int, size: Size
) -> Bits:
    model = network(seed=seed)
    teacher(size, epochs=size.epochs, seed=seed).fit(model, images, lesson(learner, size))
    with frozen(model), torch.no_grad():
        right = [
            model(test.inputs(rows)).argmax(1) == test.labels[rows]
            for rows in torch.split(torch.arange(len(test)), 500)
        ]
    return torch.cat(right).numpy()


def lesson(learner: str, size: Size) -> Loss:
    """What a learner lowers."""
    if learner == PLAIN:
        return cross_entropy
    ball = LpBall(norm="linf", radius=size.linf / 2)
    inside = ThreatModel(name="half the radius", perturbation=ball)
    return PGDTraining(threat=inside, steps=2, step_size=0.75)


def teacher(size: Size, *, epochs: int, seed: int) -> Trainer:
    """Who trains: the learners, and the methods' own models."""
    return Trainer(
        epochs=epochs,
        batch_size=size.batch,
        optimizer=SGD(lr=0.1),
        schedule=OneCycle(),
        seed=seed,
        runtime=Runtime(device="cpu", channels_last=True),
    )


def row(name: str, learner: str, piece: Piece) -> dict[str, Any]:
    """One method as seen by one learner."""
    control = piece.control.get(learner)
    return {
        "published": name,
        "set": piece.allowed,
        "length": f"{piece.lengths[0]:.2f}",
        "learner": learner,
        "clean test, %": share(piece.method[learner]),
        "after its control, %": "" if control is None else share(control),
        "lowers by": "" if control is None else lowered(piece, learner),
    }


def share(right: Bits) -> str:
    """A share with Wilson's interval of so many images: seeds are no further images."""
    count = right.shape[1]
    found = wilson(round(float(right.mean()) * count), count)
    return f"{100 * float(right.mean()):.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def lowered(piece: Piece, learner: str) -> str:
    """By how much more than the control, with the interval, and each seed's."""
    mean, low, high = gap(piece, learner)
    each = ", ".join(f"{100 * value:+.1f}" for value in per_seed(piece, learner))
    return f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] ({each})"


def gap(piece: Piece, learner: str) -> tuple[float, float, float]:
    """Accuracy after the control less that after the method, paired over test images."""
    return paired_mean(
        piece.control[learner].mean(0, dtype=np.float64)
        - piece.method[learner].mean(0, dtype=np.float64)
    )


def per_seed(piece: Piece, learner: str) -> list[float]:
    """The same of each seed alone."""
    differences = piece.control[learner].mean(1) - piece.method[learner].mean(1)
    return [float(value) for value in differences]


def conclusion(name: str, learner: str, piece: Piece) -> str:
    """What the figures support, and no more."""
    _, low, high = gap(piece, learner)
    seeds = per_seed(piece, learner)
    control = "the universal blur" if name == "CUDA" else "noise of its length"
    who = f"{name}, {learner} learner: "
    points = f"{lowered(piece, learner)} points."
    if low > 0 and min(seeds) > 0:
        return f"{who}it lowers clean accuracy more than {control}, {points}"
    if high < 0 and max(seeds) < 0:
        return f"{who}**it lowers clean accuracy less than {control}**, {points}"
    return f"{who}**it is not shown to lower clean accuracy more than {control}**, {points}"


def _packed(bits: Bits) -> list[Any]:
    return [list(bits.shape), np.packbits(bits).tobytes().hex()]


def _unpacked(packed: Sequence[Any]) -> Bits:
    shape, text = packed
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8), count=math.prod(shape))
    return bits.astype(bool).reshape(shape)

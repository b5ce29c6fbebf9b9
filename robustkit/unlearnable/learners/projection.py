"""Projecting away what a linear model can read: against changes that are one pattern per class."""

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustkit.models.layers import seeded
from robustkit.randomness import Streams
from robustkit.training import SGD, Augmentation, CutMix, Step, Trainer
from robustkit.training.history import Silent
from robustkit.unlearnable.learners.base import Learner, Lesson, crop_and_flip


@dataclass(frozen=True, kw_only=True, eq=False)
class Project:
    """Take the part of each image out that lies in some directions.

    Attributes:
        directions: (K, C * H * W) orthonormal.
    """

    directions: Tensor

    def __call__(
        self, inputs: Tensor, labels: Tensor, *, classes: int, streams: Streams
    ) -> tuple[Tensor, Tensor]:
        """Each image by itself, possibly beyond [0, 1]; labels stay."""
        directions = self.directions.to(inputs.device)
        flat = inputs.flatten(1)
        return (flat - (flat @ directions.T) @ directions).view_as(inputs), labels


@dataclass(frozen=True, kw_only=True, slots=True)
class Bend:
    """Rotate, shear and scale each image a little, and change its light and colours.

    Attributes:
        angle: Largest rotation and largest shear, in degrees.
        scale: Largest change of size, as a share of it.
        colour: Largest change of brightness, contrast and saturation, as a share of each.
    """

    angle: float = 10.0
    scale: float = 0.2
    colour: float = 0.2

    def __call__(
        self, inputs: Tensor, labels: Tensor, *, classes: int, streams: Streams
    ) -> tuple[Tensor, Tensor]:
        """Each image by itself, in [0, 1]; labels stay."""
        turn, shear, size = streams.fork("shape").uniform((3,), -1.0, 1.0).unbind(1)
        turn, shear = (math.radians(self.angle) * angle for angle in (turn, shear))
        size = 1 + self.scale * size
        # From places in the new image to places in the old one.
        across = torch.stack([turn.cos(), shear.tan() * turn.cos() - turn.sin()], 1)
        down = torch.stack([turn.sin(), shear.tan() * turn.sin() + turn.cos()], 1)
        matrix = F.pad(torch.stack([across, down], 1) / size[:, None, None], (0, 1))
        grid = F.affine_grid(matrix, list(inputs.shape), align_corners=False)
        bent = F.grid_sample(inputs, grid, align_corners=False)
        light = 1 + streams.fork("light").uniform((3, 1, 1, 1), -self.colour, self.colour)
        lit = (bent * light[:, 0]).clamp(0, 1)
        lit = _towards(lit, lit.mean((1, 2, 3), keepdim=True), light[:, 1])
        return _towards(lit, lit.mean(1, keepdim=True), light[:, 2]), labels


def _towards(images: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """Images nearer to something, or farther away where the share is above 1."""
    return (other + share * (images - other)).clamp(0, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sometimes:
    """Do something to some batches and leave others alone.

    Attributes:
        change: What is done.
        probability: Of doing it.
    """

    change: Augmentation
    probability: float = 0.5

    def __call__(
        self, inputs: Tensor, labels: Tensor, *, classes: int, streams: Streams
    ) -> tuple[Tensor, Tensor]:
        """One draw for the whole batch: from the stream of its first example."""
        if float(streams.take([0]).uniform(())[0]) >= self.probability:
            return inputs, labels
        return self.change(inputs, labels, classes=classes, streams=streams)


@dataclass(frozen=True, kw_only=True)
class OrthogonalProjection(Learner):
    """What a linear model of the pixels has learnt is projected out of every training image.

    Reference:
        Sandoval-Segura, Singla, Geiping, Goldblum, Goldstein: What can we learn from unlearnable
        datasets? NeurIPS 2023.

    Differs from the reference:
        Images are bent in one step, between pixels, not in two from the nearest ones; contrast and
        saturation turn about the plain mean of the channels. The schedule is the trainer's, but for
        the linear model's.
    """

    def augmentation(self, lesson: Lesson) -> tuple[Augmentation, ...]:
        """Project, bend, crop, flip, and CutMix on half of the batches."""
        project = Project(directions=linear_directions(lesson))
        return project, Bend(), *crop_and_flip(lesson.data), Sometimes(change=CutMix())


def linear_directions(lesson: Lesson) -> Tensor:
    """(K, C * H * W) orthonormal: the directions by which a linear model tells the classes."""
    size = math.prod(lesson.data.shape)
    with seeded(0):  # drawn and thrown away
        linear = nn.Linear(size, lesson.data.classes, bias=False)
    nn.init.zeros_(linear.weight)
    _linear_trainer(lesson.trainer).fit(nn.Sequential(nn.Flatten(), linear), lesson.data)
    directions: Tensor = torch.linalg.qr(linear.weight.detach().cpu().T).Q.T.contiguous()
    return directions


def _linear_trainer(trainer: Trainer) -> Trainer:
    """The published settings of the linear model."""
    return dataclasses.replace(
        trainer,
        epochs=20,
        batch_size=1024,
        optimizer=SGD(lr=0.1, momentum=0.0, weight_decay=0.0),
        schedule=Step(milestones=(10, 15)),
        augmentation=(),
        clip=None,
        progress=Silent(),
    )

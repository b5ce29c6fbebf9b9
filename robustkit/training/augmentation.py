"""Changes of training images that keep their class, drawn from each example's own stream."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from robustkit.errors import BadInput
from robustkit.randomness import Streams, seed_generators


class Augmentation(Protocol):
    """Changes a batch of images, and possibly their labels."""

    def __call__(
        self, inputs: Tensor, labels: Tensor, *, classes: int, streams: Streams
    ) -> tuple[Tensor, Tensor]:
        """Change a batch.

        Args:
            inputs: (N, C, H, W) float32 in [0, 1].
            labels: (N,) int64, or (N, K) shares.
            classes: K.
            streams: One per example, another in every epoch.

        Returns:
            Inputs and labels, the latter (N, K) float32 where classes were mixed.
        """
        ...


def augment(
    steps: Sequence[Augmentation], inputs: Tensor, labels: Tensor, *, classes: int, streams: Streams
) -> tuple[Tensor, Tensor]:
    """Apply augmentations one after the other, each with its own randomness."""
    for number, step in enumerate(steps):
        own = streams.fork(f"augmentation {number}")
        inputs, labels = step(inputs, labels, classes=classes, streams=own)
    return inputs, labels


@dataclass(frozen=True, kw_only=True, slots=True)
class Flip:
    """Mirror an image left to right with some probability."""

    probability: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what is no probability."""
        if not 0 <= self.probability <= 1:
            raise BadInput(f"The flip's probability is {self.probability}; it lies in [0, 1].")

    def __call__(
        self, inputs: Tensor, labels: Tensor, *, classes: int, streams: Streams
    ) -> tuple[Tensor, Tensor]:
        """Each image by itself; labels stay."""
        turned = streams.uniform((1, 1, 1)) < self.probability
        return torch.where(turned, inputs.flip(3), inputs), labels


@dataclass(frozen=True, kw_only=True, slots=True)
class Crop:
    """Enlarge an image at its edges and cut a piece of the old size from a random place.

    Attributes:
        padding: Pixels added on each side.
        fill: `black`, or `reflect` for the mirrored image.
    """

    padding: int = 4
    fill: Literal["black", "reflect"] = "black"

    def __post_init__(self) -> None:
        """Refuse what is no padding."""
        if self.padding < 0 or self.fill not in ("black", "reflect"):
            raise BadInput(
                f"The crop has the padding {self.padding} and the fill {self.fill!r}; give 0 or "
                "more pixels, and black or reflect."
            )

    def __call__(
        self, inputs: Tensor, labels: Tensor, *, classes: int, streams: Streams
    ) -> tuple[Tensor, Tensor]:
        """Each image by itself; labels stay."""
        count, channels, height, width = inputs.shape
        mode = "constant" if self.fill == "black" else "reflect"
        larger = F.pad(inputs, (self.padding,) * 4, mode=mode)
        corners = streams.integers(2 * self.padding + 1, (2,))
        device = inputs.device
        rows = corners[:, :1] + torch.arange(height, device=device)
        columns = corners[:, 1:] + torch.arange(width, device=device)
        pieces = larger[
            torch.arange(count, device=device)[:, None, None, None],
            torch.arange(channels, device=device)[None, :, None, None],
            rows[:, None, :, None],
            columns[:, None, None, :],
        ]
        return pieces, labels


@dataclass(frozen=True, kw_only=True, slots=True)
class Hide:
    """Black out the centre of each image, or all but the centre.

    Attributes:
        part: `centre` or `surround`: what is not to be seen.
        share: Side of the centre, as a share of the image's.
        probability: Of an image to be changed.
    """

    part: Literal["centre", "surround"]
    share: float = 0.5
    probability: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what is no part, no share and no probability."""
        if self.part not in ("centre", "surround"):
            raise BadInput(f"What is hidden is {self.part!r}; use centre or surround.")
        if not (0 < self.share < 1 and 0 <= self.probability <= 1):
            raise BadInput(
                f"Hiding has the share {self.share} and the probability {self.probability}; give a "
                "share between 0 and 1, and a probability."
            )

    def __call__(
        self, inputs: Tensor, labels: Tensor, *, classes: int, streams: Streams
    ) -> tuple[Tensor, Tensor]:
        """Each image by itself; labels stay."""
        seen = inputs.new_zeros(inputs.shape[-2:])
        rows, columns = (self._middle(side) for side in seen.shape)
        seen[rows, columns] = 1
        seen = seen if self.part == "surround" else 1 - seen
        changed = streams.uniform((1, 1, 1)) < self.probability
        return torch.where(changed, inputs * seen, inputs), labels

    def _middle(self, side: int) -> slice:
        length = max(1, round(self.share * side))
        return slice((side - length) // 2, (side - length) // 2 + length)


@dataclass(frozen=True, kw_only=True, slots=True)
class RandAugment:
    """Random operations of torchvision, each image by itself.

    Attributes:
        operations: Applied one after the other.
        magnitude: Strength, 0 to 30.

    Reference:
        Cubuk, Zoph, Shlens, Le: RandAugment: practical automated data augmentation with a reduced
        search space. CVPR workshop 2020.
    """

    operations: int = 2
    magnitude: int = 9

    def __call__(
        self, inputs: Tensor, labels: Tensor, *, classes: int, streams: Streams
    ) -> tuple[Tensor, Tensor]:
        """Labels stay; the values come in steps of 1/255."""
        from torchvision.transforms import v2

        change = v2.RandAugment(num_ops=self.operations, magnitude=self.magnitude)
        return _one_by_one(change, inputs, streams), labels


@dataclass(frozen=True, kw_only=True, slots=True)
class TrivialAugment:
    """One random operation of torchvision at a random strength, each image by itself.

    Reference:
        Müller, Hutter: TrivialAugment: tuning-free yet state-of-the-art data augmentation. ICCV
        2021 (its wide ranges).
    """

    def __call__(
        self, inputs: Tensor, labels: Tensor, *, classes: int, streams: Streams
    ) -> tuple[Tensor, Tensor]:
        """Labels stay; the values come in steps of 1/255."""
        from torchvision.transforms import v2

        return _one_by_one(v2.TrivialAugmentWide(), inputs, streams), labels


@dataclass(frozen=True, kw_only=True, slots=True)
class MixUp:
    """Blend each image and label with its neighbour in the batch.

    Attributes:
        alpha: Of the Beta distribution of the shares; one share per batch.

    Reference:
        Zhang, Cisse, Dauphin, Lopez-Paz: mixup: beyond empirical risk minimization. ICLR 2018.
    """

    alpha: float = 1.0

    def __call__(
        self, inputs: Tensor, labels: Tensor, *, classes: int, streams: Streams
    ) -> tuple[Tensor, Tensor]:
        """Labels become shares."""
        from torchvision.transforms import v2

        return _mixed(v2.MixUp(alpha=self.alpha, num_classes=classes), inputs, labels, streams)


@dataclass(frozen=True, kw_only=True, slots=True)
class CutMix:
    """Paste a rectangle of each image's neighbour in the batch over it.

    Attributes:
        alpha: Of the Beta distribution of the rectangle's share; one rectangle per batch.

    Reference:
        Yun, Han, Oh, Chun, Choe, Yoo: CutMix: regularization strategy to train strong classifiers
        with localizable features. ICCV 2019.
    """

    alpha: float = 1.0

    def __call__(
        self, inputs: Tensor, labels: Tensor, *, classes: int, streams: Streams
    ) -> tuple[Tensor, Tensor]:
        """Labels become shares."""
        from torchvision.transforms import v2

        return _mixed(v2.CutMix(alpha=self.alpha, num_classes=classes), inputs, labels, streams)


def _mixed(change: Any, inputs: Tensor, labels: Tensor, streams: Streams) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    # One draw for the whole batch: from the stream of its first example.
    seed = int(streams.take([0]).bits(())[0])
    with torch.random.fork_rng(devices=[]):
        seed_generators(seed)
        mixed: tuple[Tensor, Tensor] = change(inputs, labels)
    return mixed


def _one_by_one(change: Any, inputs: Tensor, streams: Streams) -> Tensor:  # noqa: ANN401
    """Images in bytes, changed by a transform of torchvision, each from its own stream."""
    images = (inputs * 255).round().to(torch.uint8)
    seeds = streams.bits(()).tolist()
    with torch.random.fork_rng(devices=[]):
        changed = [_seeded(change, seed, image) for seed, image in zip(seeds, images, strict=True)]
    return torch.stack(changed).to(inputs.dtype) / 255


def _seeded(change: Any, seed: int, image: Tensor) -> Tensor:  # noqa: ANN401 - torchvision's transforms
    seed_generators(seed)
    changed: Tensor = change(image)
    return changed

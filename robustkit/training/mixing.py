"""Further examples to learn from, a fixed share of every batch."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustkit.data import LabelledImages
from robustkit.errors import BadInput, ShapeMismatch
from robustkit.randomness import Streams

# Enough that short tours, too, come in every order about equally often.
_ROUNDS = 8


@dataclass(frozen=True, kw_only=True)
class Extra:
    """Examples that are learnt from beside the data proper, such as generated ones.

    Every batch has the same share of them, and an epoch is as long as without them, so that what it
    costs does not depend on how many there are. They are never held out. An uncompressed `.npz`
    file or a `.safetensors` file is mapped into memory: only the images of a batch are read.

    Attributes:
        images: The examples. Their labels may be another model's answers.
        share: Of each batch, in (0, 1].

    Raises:
        BadInput: The share is none.

    Reference:
        Gowal, Rebuffi, Wiles, Stimberg, Calian, Mann: Improving robustness using generated data.
        NeurIPS 2021. Wang, Pang, Du, Lin, Liu, Yan: Better diffusion models further improve
        adversarial training. ICML 2023, with a share of 0.7 of one million images.

    Differs from the reference:
        They are drawn without replacement, all of them before one comes again.
    """

    images: LabelledImages
    share: float = 0.7

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        if not 0 < self.share <= 1:
            raise BadInput(
                f"The share of extra examples is {self.share}; it must be above 0 and at most 1."
            )

    def count(self, batch_size: int) -> int:
        """How many of a batch are extra.

        Raises:
            BadInput: None would be.
        """
        count = round(self.share * batch_size)
        if count == 0:
            raise BadInput(
                f"A share of {self.share} of a batch of {batch_size} is no example. Give a larger "
                "share or a larger batch."
            )
        return count

    def record(self) -> dict[str, Any]:
        """What they are, as JSON; every image is read."""
        return {
            "spec": self.images.spec,
            "n": len(self.images),
            "sha256": self.images.sha256,
            "share": self.share,
        }


class Pool:
    """Examples by row: those of the data, then the extra ones.

    Attributes:
        labels: (N,) int64.
        ids: (N,) int64; those of extra examples come after all others.
    """

    def __init__(self, data: LabelledImages, extra: Extra | None) -> None:
        """Put both together; no image is read.

        Raises:
            ShapeMismatch: Their images differ in shape.
            BadInput: The extra examples have other classes.
        """
        self.data = data
        self.extra = extra
        self.labels, self.ids = data.labels, data.ids
        if extra is None:
            return
        _check_alike(data, extra.images)
        after = int(data.ids.max()) + 1
        self.labels = torch.cat([data.labels, extra.images.labels])
        self.ids = torch.cat([data.ids, torch.arange(after, after + len(extra.images))])

    def inputs(self, rows: Tensor) -> Tensor:
        """(n, C, H, W) float32: the images of these rows, and only these are read."""
        if self.extra is None:
            return self.data.inputs(rows)
        proper = rows < len(self.data)
        images = torch.empty(len(rows), *self.data.shape)
        images[proper] = self.data.inputs(rows[proper])
        images[~proper] = self.extra.images.inputs(rows[~proper] - len(self.data))
        return images

    def order(self, epoch: int, *, steps: int, batch_size: int, seed: int) -> Tensor:
        """The rows of an epoch, one batch after the other.

        Args:
            epoch: From 0.
            steps: Of the epoch.
            batch_size: Examples per step.
            seed: Of the order.
        """
        if self.extra is None:
            whole = Streams.of(seed=seed, ids=torch.zeros(1, dtype=torch.int64), purpose="order")
            return whole.permutation(len(self.data), draw=epoch)[0, : steps * batch_size]
        count = self.extra.count(batch_size)
        # Spread evenly, so that the parts of a batch that processes take have the same share.
        places = torch.arange(batch_size)
        extra = (places + 1) * count // batch_size > places * count // batch_size
        rows = torch.empty(steps, batch_size, dtype=torch.int64)
        for mask, total, first, purpose in (
            (~extra, len(self.data), 0, "order"),
            (extra, len(self.extra.images), len(self.data), "extra order"),
        ):
            length = steps * int(mask.sum())
            places = torch.arange(epoch * length, (epoch + 1) * length)
            drawn = shuffled(places, total, seed=seed, purpose=purpose)
            rows[:, mask] = first + drawn.view(steps, -1)
        return rows.flatten()


def shuffled(places: Tensor, count: int, *, seed: int, purpose: str) -> Tensor:
    """What stands at these places of endless random tours through range(count).

    Places 0 to count - 1 are the first tour, in which each number comes once, and so on. Nothing as
    long as a tour is ever made: a tour is a Feistel network, whose numbers beyond `count` are sent
    round again.

    Args:
        places: (n,) int64, 0 or larger.
        count: Above 0.
        seed: Of all tours.
        purpose: Of the numbers; each has its own tours.

    Returns:
        (n,) int64 in [0, count).
    """
    tours, numbers = places // count, places % count
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    todo = torch.arange(len(places))
    while len(todo):
        numbers[todo] = _encrypted(numbers[todo], tours[todo], half, seed=seed, purpose=purpose)
        todo = todo[numbers[todo] >= count]
    return numbers


def _encrypted(numbers: Tensor, tours: Tensor, half: int, *, seed: int, purpose: str) -> Tensor:
    """A random bijection of [0, 4**half), another one for each tour."""
    mask = (1 << half) - 1
    left, right = numbers >> half, numbers & mask
    for number in range(_ROUNDS):
        streams = Streams.of(seed=seed, ids=right, purpose=f"{purpose}, round {number}")
        left, right = right, left ^ (streams.bits((), draw=tours) & mask)
    return left << half | right


def _check_alike(data: LabelledImages, extra: LabelledImages) -> None:
    if extra.shape != data.shape:
        raise ShapeMismatch(
            f"The extra images {extra.spec!r} have the shape {extra.shape} (channels, height, "
            f"width), those of {data.spec!r} have {data.shape}. Both must have the same."
        )
    if extra.classes > data.classes:
        raise BadInput(
            f"The extra examples {extra.spec!r} have {extra.classes} classes, {data.spec!r} has "
            f"{data.classes}. Their labels must lie in 0 to {data.classes - 1}."
        )
    if _named(extra) and _named(data) and extra.class_names != data.class_names:
        raise BadInput(
            f"The classes of the extra examples {extra.spec!r} are called "
            f"{', '.join(extra.class_names[:5])}, ..., those of {data.spec!r} "
            f"{', '.join(data.class_names[:5])}, .... Give examples of the same classes, in the "
            "same order."
        )


def _named(images: LabelledImages) -> bool:
    """Whether the classes have names and not just numbers."""
    return images.class_names != tuple(map(str, range(images.classes)))

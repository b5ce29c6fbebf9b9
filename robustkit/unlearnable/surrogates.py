"""The model that an attack trains itself, and how it looks at images."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustkit import models
from robustkit.data import LabelledImages
from robustkit.randomness import Streams
from robustkit.training.augmentation import Augmentation, augment


def surrogate(architecture: str, data: LabelledImages, streams: Streams) -> nn.Module:
    """A model for some images, where the streams are; new weights depend on their seed.

    Args:
        architecture: As `robustkit.models.load` takes it; any model of the user's, too.
        data: Its classes and shape count.
        streams: Of the attack.
    """
    channels, height, _ = data.shape
    return models.load(
        architecture,
        classes=data.classes,
        channels=channels,
        size=height,
        seed=streams.fork("weights").key >> 33,
        device=streams.ids.device,
    )


def views(
    augmentation: Sequence[Augmentation], inputs: Tensor, streams: Streams, *, draws: int = 1
) -> Tensor:
    """(draws * N, C, H, W): each image as a learner may see it, several times, differentiable.

    Args:
        augmentation: Of the learner, in order; it keeps labels.
        inputs: (N, C, H, W).
        streams: One per image.
        draws: Of each image, one after all others.
    """
    repeated = inputs.repeat(draws, 1, 1, 1)
    # The labels mean nothing to an augmentation that keeps them.
    labels = torch.zeros(len(repeated), dtype=torch.int64, device=inputs.device)
    seen, _ = augment(augmentation, repeated, labels, classes=1, streams=several(streams, draws))
    return seen


def towards(labels: Tensor) -> Callable[[Tensor], Tensor]:
    """Of logits, (N,): larger the likelier the labels are; (N,) classes or (N, K) shares."""
    return lambda logits: -F.cross_entropy(logits, labels, reduction="none")


def several(streams: Streams, draws: int) -> Streams:
    """So many independent streams of each example, one of all examples after the other."""
    rows = torch.arange(len(streams), device=streams.ids.device).repeat(draws)
    return streams.take(rows).on_lanes(
        torch.arange(draws, device=rows.device).repeat_interleave(len(streams))
    )

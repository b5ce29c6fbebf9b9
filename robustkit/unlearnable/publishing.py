"""From a change of some images to the set that is published."""

from collections.abc import Callable

import torch
from torch import Tensor

from robustkit.attacks.base import Poisoned
from robustkit.data import LabelledImages
from robustkit.data.computing import as_bytes, computed
from robustkit.data.pixels import ArrayPixels
from robustkit.randomness import Streams
from robustkit.threat_models import PerturbationSet

# Images that are changed together.
_WIDTH = 256
# How far, in levels, a change may miss a whole number and count as it: float32 makes 8/255 of 8.
_MISS = 5e-5

Change = Callable[[Tensor, Tensor, Tensor, Streams], Tensor]


def publish(
    data: LabelledImages,
    mask: Tensor,
    allowed: PerturbationSet,
    change: Change,
    *,
    name: str,
    streams: Streams,
) -> Poisoned:
    """The set with some images changed: bytes, computed anew whenever they are read.

    Images that are stored as float32 are rounded to bytes first, and the set is around these.

    Args:
        data: The clean images; not modified.
        mask: (N,) bool: which are changed.
        allowed: What may be changed; what comes out lies inside.
        change: Of rows (n,) on the CPU, clean images (n, C, H, W), labels (n,) and streams, the
            changed images, wherever they lie. It works on the device of the streams.
        name: Of what changes them.
        streams: One per image.
    """
    device = streams.ids.device

    def published(stored: Tensor, rows: Tensor) -> Tensor:
        pixels = as_bytes(stored).clone()
        chosen = mask[rows].nonzero()[:, 0]
        for start in range(0, len(chosen), _WIDTH):
            places = chosen[start : start + _WIDTH]
            here = rows[places]
            clean = (pixels[places].float() / 255).to(device)
            own = streams.take(here.to(device))
            changed = change(here, clean, data.labels[here].to(device), own)
            changed = allowed.project(clean, changed)
            pixels[places] = towards_clean(pixels[places], changed.cpu())
        return pixels

    return Poisoned(data=computed(data, published, spec=f"{name} of {data.spec}"), changed=mask)


def settled(poisoned: Poisoned) -> Poisoned:
    """The same with all images computed, once and for all; they are held in memory as bytes."""
    data = poisoned.data
    return Poisoned(
        data=LabelledImages(
            ArrayPixels(array=data.stored(slice(None)).numpy()),
            data.labels,
            spec=data.spec,
            split=data.split,
            class_names=data.class_names,
            ids=data.ids,
        ),
        changed=poisoned.changed,
    )


def towards_clean(clean: Tensor, changed: Tensor) -> Tensor:
    """Like `clean`: changed images in bytes, rounded so that no value changes more than before.

    Args:
        clean: (N, C, H, W) uint8.
        changed: Like `clean`, float32 in [0, 1].

    Example:
        >>> towards_clean(torch.tensor([100, 100]).byte(), torch.tensor([103.9, 96.1]) / 255)
        tensor([103,  97], dtype=torch.uint8)
    """
    levels = changed.double() * 255 - clean
    whole = (levels.abs() + _MISS).floor() * levels.sign()
    return (clean + whole).to(torch.uint8)

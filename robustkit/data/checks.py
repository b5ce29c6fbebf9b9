"""What every set of labelled images must fulfil, whatever it was read from."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from robustkit.data.pixels import Pixels
from robustkit.errors import BadInput, ShapeMismatch

_CHUNK_BYTES = 16 * 2**20
_MOST_UNNAMED_CLASSES = 100_000
_MOST_CHANNELS = 4


def check_range(pixels: Pixels, spec: str) -> None:
    """Refuse stored floats outside [0, 1] and NaN; bytes are always in range.

    Raises:
        BadInput: Names the first image that is out of range, and what it holds.
    """
    if pixels.dtype == np.uint8:
        return
    for part in chunks(pixels, len(pixels)):
        values = pixels.read(np.arange(part.start, part.stop, dtype=np.int64))
        inside = ((values >= 0) & (values <= 1)).all(axis=(1, 2, 3))
        if inside.all():
            continue
        row = int(np.flatnonzero(~inside)[0])
        found = "NaN" if np.isnan(values[row]).any() else f"{values[row].min()}-{values[row].max()}"
        raise BadInput(
            f"Image {part.start + row} of {spec!r} has values outside [0, 1]: {found}. "
            "Inputs are never rescaled here: divide them by their range before, or give uint8."
        )


def chunks(pixels: Pixels, rows: int) -> Iterator[slice]:
    """Consecutive slices of so many rows, each a few megabytes of pixels."""
    bytes_per_image = int(np.prod(pixels.shape)) * pixels.dtype.itemsize
    step = max(1, _CHUNK_BYTES // bytes_per_image)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def refuse_channels_last(shape: Sequence[int], spec: str) -> None:
    """Refuse a shape (N, C, H, W) that was plainly meant in another order.

    Many channels beside a side of 1 or 3 pixels are far likelier to be channels in the wrong place,
    and such images would be attacked and reported without anybody noticing.

    Raises:
        ShapeMismatch: The shape is such a one.
    """
    _, channels, height, width = shape
    short, long = sorted((height, width))
    if channels > _MOST_CHANNELS and short in (1, 3) and long > _MOST_CHANNELS:
        raise ShapeMismatch(
            f"{spec!r} would have {channels} channels of {height} x {width} pixels: its dimensions "
            "seem to be in another order. Allowed: (N, C, H, W) for tensors and float arrays, "
            "(N, H, W[, C]) for stored uint8 arrays."
        )


def checked_labels(labels: Tensor, images: int, spec: str) -> Tensor:
    """The labels as int64 on the CPU, a copy.

    Raises:
        ShapeMismatch: They are not one integer per image.
        BadInput: There are none.
    """
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if not whole or labels.shape != (images,):
        raise ShapeMismatch(
            f"Labels of {spec!r} have the shape {tuple(labels.shape)} and type {labels.dtype}; "
            f"allowed is one integer per image: ({images},)."
        )
    if images == 0:
        raise BadInput(f"{spec!r} is empty: it has no image. Give a set of at least one.")
    return labels.detach().to(device="cpu", dtype=torch.int64, copy=True)


def checked_names(labels: Tensor, names: Sequence[str] | None, spec: str) -> tuple[str, ...]:
    """The class names; without any, the numbers 0 to the largest label.

    Raises:
        BadInput: A label is out of range.
    """
    low, high = int(labels.min()), int(labels.max())
    most = _MOST_UNNAMED_CLASSES if names is None else len(names)
    if low < 0 or high >= most:
        raise BadInput(
            f"Labels of {spec!r} run from {low} to {high}; allowed is 0 to {most - 1} "
            f"({most} classes)."
        )
    return tuple(str(label) for label in range(high + 1)) if names is None else tuple(names)


def checked_ids(ids: Tensor | None, images: int, spec: str) -> Tensor:
    """The ids; without any, the positions 0 to N - 1.

    Raises:
        ShapeMismatch: They are not one int64 per image.
        BadInput: One occurs twice.
    """
    if ids is None:
        return torch.arange(images)
    if ids.dtype != torch.int64 or ids.shape != (images,):
        raise ShapeMismatch(
            f"Ids of {spec!r} have the shape {tuple(ids.shape)} and type {ids.dtype}; "
            f"allowed is int64 ({images},)."
        )
    if np.unique(ids.numpy()).size != images:
        raise BadInput(f"Ids of {spec!r} occur more than once; each image needs its own.")
    return ids

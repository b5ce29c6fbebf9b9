"""Images that are computed from those of another set whenever they are read."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from robustkit.data.labelled_images import LabelledImages
from robustkit.data.pixels import Array, Rows
from robustkit.errors import ShapeMismatch

Change = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class ComputedPixels:
    """A store that reads from another set and changes what it has read.

    Nothing is kept: memory does not grow with the number of images, and `robustkit.data.save`
    streams them from disk to disk.

    Attributes:
        images: The set that is read.
        change: Given the stored images of some rows, (n, C, H, W) uint8 or float32 in [0, 1], and
            the rows, (n,) int64, it returns (n, C, H, W) uint8, the same whatever other rows are
            read with them. It may be asked for many rows at once.
    """

    images: LabelledImages
    change: Change = field(repr=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.images.shape

    @property
    def dtype(self) -> "np.dtype[np.uint8]":
        """Always uint8."""
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    def read(self, rows: Rows) -> Array:
        """The images of these rows, (n, C, H, W) uint8.

        Raises:
            ShapeMismatch: `change` returned something else.
        """
        positions = torch.from_numpy(rows)
        stored = self.images.stored(positions)
        changed = self.change(stored, positions)
        if changed.shape != stored.shape or changed.dtype != torch.uint8:
            raise ShapeMismatch(
                f"Images of shape {tuple(stored.shape)} were changed into {changed.dtype} "
                f"{tuple(changed.shape)}; a change keeps the shape and gives uint8."
            )
        return np.ascontiguousarray(changed.cpu().numpy())


def computed(images: LabelledImages, change: Change, *, spec: str) -> LabelledImages:
    """The same set with other pixels: labels, ids, class names, split and order stay.

    Args:
        images: The set that is read.
        change: What happens to its images; see `ComputedPixels`.
        spec: What the new set is called.

    Example:
        >>> bytes_ = torch.full((2, 1, 2, 2), 100).byte()
        >>> grey = LabelledImages.from_tensors(bytes_, torch.arange(2))
        >>> inverse = computed(grey, lambda stored, rows: 255 - stored, spec="inverse")
        >>> inverse.stored([1]).unique().tolist()
        [155]
    """
    return LabelledImages(
        ComputedPixels(images=images, change=change),
        images.labels,
        spec=spec,
        split=images.split,
        class_names=images.class_names,
        ids=images.ids,
    )


def as_bytes(stored: Tensor) -> Tensor:
    """Stored images as uint8: floats in [0, 1] are rounded to the nearest of 255 levels.

    Example:
        >>> as_bytes(torch.tensor([0.0, 0.5, 1.0])).tolist()
        [0, 128, 255]
    """
    return stored if stored.dtype == torch.uint8 else (stored * 255).round().to(torch.uint8)

"""Noise that is still being made, and images that follow it."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robustkit.data import LabelledImages
from robustkit.data.pixels import Array, Rows


class Noise:
    """The noise as it stands, and the images under it, which follow it.

    Attributes:
        clean: The images without it.
        table: (M, C, H, W) float32: a pattern for each owner.
        owners: (N,) int64: whose pattern each image carries.
    """

    def __init__(self, clean: LabelledImages, owners: Tensor) -> None:
        """None yet."""
        self.clean = clean
        self.owners = owners
        count = int(owners.max()) + 1 if len(owners) else 0
        self.table = torch.zeros(count, *clean.shape)

    def images(self) -> LabelledImages:
        """What a trainer reads: at any time as it stands then."""
        return LabelledImages(
            _Covered(self),
            self.clean.labels,
            spec=self.clean.spec,
            split=self.clean.split,
            class_names=self.clean.class_names,
            ids=self.clean.ids,
        )

    def covered(self, rows: Tensor) -> Tensor:
        """(n, C, H, W): these images under the noise as it stands."""
        return (self.clean.inputs(rows) + self.of(rows)).clamp_(0, 1)

    def of(self, rows: Tensor) -> Tensor:
        """(n, C, H, W): what these images carry."""
        return self.table[self.owners[rows]]

    def settle(self, rows: Tensor, changes: Tensor) -> None:
        """Give each owner among some images the mean of their changes, which lies in the ball."""
        owners, member = torch.unique(self.owners[rows], return_inverse=True)
        total = torch.zeros(len(owners), *changes.shape[1:]).index_add_(0, member, changes)
        self.table[owners] = total / torch.bincount(member).reshape(-1, 1, 1, 1)


@dataclass(frozen=True, slots=True)
class _Covered:
    """A store of images under noise that is still moving."""

    noise: Noise

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.noise.clean.shape

    @property
    def dtype(self) -> "np.dtype[np.float32]":
        """Always float32."""
        return np.dtype(np.float32)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.noise.clean)

    def read(self, rows: Rows) -> Array:
        """The images of these rows, as they stand."""
        covered: Array = self.noise.covered(torch.from_numpy(rows)).numpy()
        return covered

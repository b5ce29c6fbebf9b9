"""Linearly separable patterns of coarse blocks."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robustkit.data import LabelledImages
from robustkit.errors import BadInput
from robustkit.randomness import Streams
from robustkit.unlearnable.additive import Additive, Pattern, of_classes

# Corners of a cube of so many dimensions are numbered; those of further ones are drawn.
_NUMBERED = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class LSP(Additive):
    """Blocks of one value each, drawn around a corner of a cube of the class's own.

    Each image has a point with a coordinate for each block and channel: normal, stretched by a
    random matrix of the class, around a corner of the cube of half side `separation`. The point,
    enlarged to blocks and scaled to the radius, is added. A linear classifier tells the classes of
    such points, and so a network need learn nothing else.

    Published with the l2 radius sqrt(C * H * W) * 6/255: 1.30 for images of 32 x 32 x 3.

    Attributes:
        patch: Side of a block in pixels; those at the lower and right edge may be cut off.
        separation: Half the side of the cube, beside normal clouds stretched by up to 1 per
            coordinate.

    Raises:
        BadInput: A hyper-parameter that means nothing; on running, too few blocks for the classes.

    Reference:
        Yu, Zhang, Chen, Yin, Liu: Availability attacks create shortcuts. KDD 2022.

    Differs from the reference:
        The points follow the law of scikit-learn's `make_classification` with which the reference
        draws them, from each image's own stream. Grey images and any height and width. Bytes are
        rounded towards the clean image.
    """

    patch: int = 8
    separation: float = 10.0

    def __post_init__(self) -> None:
        """Refuse hyper-parameters that mean nothing."""
        if self.patch < 1 or not self.separation > 0:
            raise BadInput(
                f"LSP has patches of {self.patch} px and the separation {self.separation}; give at "
                "least 1 px and a separation above 0."
            )

    def pattern(self, data: LabelledImages, streams: Streams) -> Pattern:
        """Points around the corners, enlarged to blocks."""
        channels, height, width = data.shape
        grid = (channels, math.ceil(height / self.patch), math.ceil(width / self.patch))
        size = math.prod(grid)
        shared = of_classes(data, streams, "linearly separable")
        corners = self._corners(shared, size, data)
        stretches = shared.fork("stretch").uniform((size, size), -1.0, 1.0).double()

        def draw(labels: Tensor, own: Streams) -> Tensor:
            # In float64: the order of addition, which depends on the batch, must not show.
            points = own.fork("point").normal((size,)).double()
            for label in set(labels.tolist()):
                rows = labels == label
                points[rows] = points[rows] @ stretches[label] + corners[label]
            blocks = points.float().reshape(-1, *grid)
            for side in (2, 3):
                blocks = blocks.repeat_interleave(self.patch, dim=side)
            return blocks[:, :, :height, :width]

        return draw

    def _corners(self, shared: Streams, size: int, data: LabelledImages) -> Tensor:
        """(K, size) float64: a corner for each class, no two the same."""
        numbered = min(size, _NUMBERED)
        if data.classes > 2**numbered:
            raise BadInput(
                f"LSP has {size} blocks of {self.patch} px for images of shape {data.shape}: "
                f"{2**numbered} corners for {data.classes} classes. Give a smaller patch."
            )
        numbers = shared.take([0]).fork("corners").permutation(2**numbered)[0, : data.classes]
        bits = numbers[:, None] >> torch.arange(numbered, device=numbers.device) & 1
        further = shared.fork("further corners").integers(2, (size - numbered,))
        return (torch.cat([bits, further], dim=1) * 2 - 1).double() * self.separation

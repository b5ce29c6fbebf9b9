"""Images with labels and stable ids, read only when they are asked for."""

import functools
import hashlib
import operator
from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from robustkit.data.checks import (
    check_range,
    checked_ids,
    checked_labels,
    checked_names,
    chunks,
    refuse_channels_last,
)
from robustkit.data.pixels import ArrayPixels, Pixels, Rows
from robustkit.errors import BadInput, ShapeMismatch


class LabelledImages(Dataset[tuple[Tensor, int]]):
    """A set of images of one shape, each with a label and an id.

    Pixels stay where and as they are stored (bytes in memory, a mapped file, image files);
    `inputs(rows)` converts just the rows asked for. Subsets share the pixels of the whole.

    Attributes:
        spec: The words that name the set, as given to `load`.
        split: Which part of the set this is.
        class_names: One name per class.
        labels: (N,) int64, each in [0, classes).
        ids: (N,) int64. The position in the stored split; subsets keep it.
        shape: (C, H, W).
    """

    def __init__(
        self,
        pixels: Pixels,
        labels: Tensor,
        *,
        spec: str,
        split: str = "test",
        class_names: Sequence[str] | None = None,
        ids: Tensor | None = None,
    ) -> None:
        """Put a store of pixels and their labels together.

        Args:
            pixels: N images.
            labels: (N,) integers.
            spec: The words that name the set.
            split: Which part of the set this is.
            class_names: One name per class; by default the numbers 0 to the largest label.
            ids: (N,) distinct integers; by default the positions 0 to N - 1.

        Raises:
            ShapeMismatch: Lengths or types do not belong together.
            BadInput: The set is empty, or a label is out of range, or an id occurs twice.
        """
        checked = checked_labels(labels, len(pixels), spec)
        self.spec = spec
        self.split = split
        self.class_names = checked_names(checked, class_names, spec)
        self.labels = checked
        self.ids = checked_ids(ids, len(pixels), spec)
        self.shape = pixels.shape
        self._pixels = pixels
        self._rows: Rows = np.arange(len(pixels), dtype=np.int64)

    @classmethod
    def from_tensors(
        cls,
        inputs: Tensor,
        labels: Tensor,
        *,
        spec: str = "tensors",
        split: str = "test",
        class_names: Sequence[str] | None = None,
    ) -> Self:
        """Images that are already in memory; the tensor is shared, not copied.

        Args:
            inputs: (N, C, H, W), floating point in [0, 1], or uint8 in [0, 255].
            labels: (N,) integers.
            spec: The words that name the set.
            split: Which part of the set this is.
            class_names: One name per class; by default the numbers 0 to the largest label.

        Raises:
            ShapeMismatch: Shapes, types or lengths do not belong together.
            BadInput: A value outside [0, 1] or NaN, a label out of range, or no image at all.
        """
        if inputs.ndim != 4 or 0 in inputs.shape[1:]:
            raise ShapeMismatch(
                f"Inputs of {spec!r} have the shape {tuple(inputs.shape)}; allowed is (N, C, H, W)."
            )
        refuse_channels_last(inputs.shape, spec)
        if inputs.dtype != torch.uint8 and not inputs.is_floating_point():
            raise ShapeMismatch(
                f"Inputs of {spec!r} have the type {inputs.dtype}; allowed are floating point in "
                "[0, 1] and uint8 in [0, 255]."
            )
        plain = inputs.detach().cpu()
        stored = plain if plain.dtype == torch.uint8 else plain.float()
        pixels = ArrayPixels(array=stored.numpy())
        images = cls(pixels, labels, spec=spec, split=split, class_names=class_names)
        check_range(pixels, spec)
        return images

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def __len__(self) -> int:
        """The number of images."""
        return len(self._rows)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        """One image, (C, H, W) float32 in [0, 1], and its label."""
        position = operator.index(row)
        return self.inputs([position])[0], int(self.labels[position])

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        """Every image with its label, in order."""
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        """The set in one line."""
        return (
            f"LabelledImages(spec={self.spec!r}, split={self.split!r}, n={len(self)}, "
            f"classes={self.classes}, shape={self.shape})"
        )

    def inputs(self, rows: Tensor | Sequence[int] | slice) -> Tensor:
        """The images of these rows, and only these.

        Args:
            rows: Positions in this set: integers, a slice, or a mask (N,) of bool.

        Returns:
            (n, C, H, W) float32 in [0, 1], on the CPU.

        Raises:
            IndexError: A position is not in this set.
        """
        stored = self.stored(rows)
        return stored.float().div_(255) if stored.dtype == torch.uint8 else stored

    def stored(self, rows: Tensor | Sequence[int] | slice) -> Tensor:
        """As `inputs`, in the stored type: uint8 in [0, 255], or float32 in [0, 1]."""
        return torch.from_numpy(self._pixels.read(self._rows[self._positions(rows)]))

    def take(self, rows: Tensor | Sequence[int] | slice) -> "LabelledImages":
        """The subset of these rows, in this order, with the ids they have here.

        Args:
            rows: Positions in this set: integers, a slice, or a mask (N,) of bool; may be empty.
        """
        positions = self._positions(rows)
        subset = object.__new__(type(self))
        subset.spec, subset.split, subset.class_names = self.spec, self.split, self.class_names
        subset.labels = self.labels[positions]
        subset.ids = self.ids[positions]
        subset.shape = self.shape
        subset._pixels = self._pixels
        subset._rows = self._rows[positions]
        return subset

    def relabelled(self, labels: Tensor) -> "LabelledImages":
        """The same images with other labels, of the same classes.

        Args:
            labels: (N,) integers.

        Raises:
            ShapeMismatch: Their number or type does not belong to the images.
            BadInput: A label is out of range.
        """
        checked = checked_labels(labels, len(self), self.spec)
        checked_names(checked, self.class_names, self.spec)
        same = self.take(slice(None))
        same.labels = checked
        return same

    def first(self, n: int) -> "LabelledImages":
        """The first n images in stored order.

        Raises:
            BadInput: n is below 1 or above the size of this set.
        """
        return self.take(slice(0, self._checked_n(n)))

    def stratified(self, n: int, *, seed: int = 0) -> "LabelledImages":
        """A class-balanced subset of n images, in stored order.

        Each class gives n / classes images as long as it has them; what is left over goes round
        among the others. The choice depends on the seed and the ids alone, and the choice for a
        smaller n lies inside the one for a larger.

        Raises:
            BadInput: n is below 1 or above the size of this set.
        """
        turns: dict[int, int] = {}
        drawn: list[tuple[int, bytes, int]] = []
        labels = self.labels.tolist()
        keys = [_key(seed, "example", id_) for id_ in self.ids.tolist()]
        class_keys = [_key(seed, "class", label) for label in range(self.classes)]
        for row in sorted(range(len(self)), key=keys.__getitem__):
            label = labels[row]
            turn = turns[label] = turns.get(label, -1) + 1
            drawn.append((turn, class_keys[label], row))
        chosen = sorted(drawn)[: self._checked_n(n)]
        return self.take(sorted(row for _, _, row in chosen))

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the content: shape, stored type, pixels (channels first) and labels, in order."""
        digest = hashlib.sha256()
        digest.update(f"{len(self)} {self.shape} {self._pixels.dtype.name}\n".encode())
        for part in self.chunks():
            digest.update(np.ascontiguousarray(self.stored(part).numpy()).data)
        digest.update(self.labels.numpy().astype("<i8").tobytes())
        return digest.hexdigest()

    def chunks(self) -> Iterator[slice]:
        """Consecutive slices of rows, together the whole set, each a few megabytes of pixels."""
        return chunks(self._pixels, len(self))

    def _positions(self, rows: Tensor | Sequence[int] | slice) -> Rows:
        """The rows as positions in [0, N)."""
        if isinstance(rows, slice):
            return np.arange(len(self), dtype=np.int64)[rows].copy()
        given = torch.as_tensor(rows).detach().cpu()
        if given.dtype == torch.bool and given.shape == (len(self),):
            given = given.nonzero().flatten()
        if given.numel() == 0:
            return np.empty(0, dtype=np.int64)
        if given.ndim != 1 or given.dtype.is_floating_point or given.dtype == torch.bool:
            raise IndexError(
                f"Rows of shape {tuple(given.shape)} and type {given.dtype} do not select images; "
                f"allowed are a list of integers, a slice, or a mask of {len(self)} bool."
            )
        positions: Rows = given.to(torch.int64).numpy()
        if positions.min() < -len(self) or positions.max() >= len(self):
            raise IndexError(f"Rows from {positions.min()} to {positions.max()} of {len(self)}.")
        return np.where(positions < 0, positions + len(self), positions)

    def _checked_n(self, n: int) -> int:
        if not 1 <= n <= len(self):
            raise BadInput(
                f"{n} images were asked for, and {self.spec!r} (split {self.split!r}) has "
                f"{len(self)}. Ask for 1 to {len(self)}."
            )
        return n


def _key(seed: int, what: str, number: int) -> bytes:
    # A hash and not a random generator: it means the same in every version of every library.
    return hashlib.blake2b(f"{seed} {what} {number}".encode(), digest_size=8).digest()

"""Where pixels live: in memory, mapped from a file, or in one image file per example.

A store hands out only the rows asked for, always channels first and in the stored type, so that a
set of bytes stays bytes until a batch of it is needed.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from robustkit.data.reading import reading
from robustkit.errors import BadInput, CorruptFile, ShapeMismatch

Rows = npt.NDArray[np.int64]
Array = npt.NDArray[Any]

GREY_MODES = frozenset({"1", "L", "LA"})
COLOUR_MODES = frozenset({"P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})


class Pixels(Protocol):
    """A store of N images of one shape.

    Attributes:
        shape: (C, H, W) of every image.
        dtype: `uint8`, or `float32` with values in [0, 1].
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """The stored type."""
        ...

    def __len__(self) -> int:
        """The number of images."""
        ...

    def read(self, rows: Rows) -> Array:
        """The images of these rows, (n, C, H, W), in the stored type; a fresh array."""
        ...


def channels_first(array: Array) -> Array:
    """A view (N, C, H, W) of stored images.

    Args:
        array: uint8 (N, H, W) or (N, H, W, C), or float32 (N, C, H, W).

    Raises:
        ShapeMismatch: Any other type or number of dimensions, or an empty dimension.
    """
    if array.dtype == np.uint8 and array.ndim == 3:
        view = array[:, None]
    elif array.dtype == np.uint8 and array.ndim == 4:
        view = array.transpose(0, 3, 1, 2)
    elif array.dtype == np.float32 and array.ndim == 4:
        view = array
    else:
        raise ShapeMismatch(
            f"Images of shape {array.shape} and type {array.dtype} are not understood. Allowed: "
            "float32 (N, C, H, W) in [0, 1], or uint8 (N, H, W) or (N, H, W, C)."
        )
    if 0 in view.shape[1:]:
        raise ShapeMismatch(f"Images of shape {view.shape[1:]} (C, H, W) have no pixels.")
    return view


@dataclass(frozen=True, kw_only=True)
class ArrayPixels:
    """Images in memory.

    Attributes:
        array: (N, C, H, W), uint8 or float32; a view of another layout is fine.
    """

    array: Array

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, channels, height, width = self.array.shape
        return channels, height, width

    @property
    def dtype(self) -> np.dtype[Any]:
        """The stored type."""
        return self.array.dtype

    def __len__(self) -> int:
        """The number of images."""
        return len(self.array)

    def read(self, rows: Rows) -> Array:
        """The images of these rows, (n, C, H, W)."""
        return np.ascontiguousarray(self.array[rows])


@dataclass(frozen=True, kw_only=True)
class MappedPixels:
    """Images inside a file that is mapped into memory, so that only rows asked for are read.

    Sent to another process, the file's name travels and not its content.

    Attributes:
        path: The file.
        offset: Where the array begins, in bytes.
        stored_shape: The array's shape in the file, in a layout `channels_first` accepts.
        stored_dtype: Its type in the file.
        order: `C`, or `F` where the first dimension varies fastest.
    """

    path: Path
    offset: int
    stored_shape: tuple[int, ...]
    stored_dtype: str
    order: Literal["C", "F"] = "C"

    @functools.cached_property
    def _array(self) -> Array:
        with reading(self.path, "an array of images"):
            mapped: Array = np.memmap(
                self.path,
                dtype=np.dtype(self.stored_dtype),
                mode="r",
                offset=self.offset,
                shape=self.stored_shape,
                order=self.order,
            )
        return channels_first(mapped)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the mapping itself."""
        return {name: value for name, value in self.__dict__.items() if name != "_array"}

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, channels, height, width = self._array.shape
        return channels, height, width

    @property
    def dtype(self) -> np.dtype[Any]:
        """The stored type."""
        return np.dtype(self.stored_dtype)

    def __len__(self) -> int:
        """The number of images."""
        return self.stored_shape[0]

    def read(self, rows: Rows) -> Array:
        """The images of these rows, (n, C, H, W)."""
        return np.ascontiguousarray(self._array[rows])


@dataclass(frozen=True, kw_only=True)
class Frame:
    """How an image file of any size becomes one of a given size (bilinear, antialiased).

    Attributes:
        height: Height of the result, in pixels.
        width: Its width.
        crop_from: None stretches the whole image over the result. Otherwise the aspect is kept: the
            shorter side is scaled to `crop_from` pixels and the centre cut out.
    """

    height: int
    width: int
    crop_from: int | None = None

    def apply(self, image: Image.Image) -> Image.Image:
        """The image at `width` x `height`; untouched where it has that size already."""
        if image.size == (self.width, self.height):
            return image
        if self.crop_from is None:
            return image.resize((self.width, self.height), Image.Resampling.BILINEAR)
        scale = self.crop_from / min(image.size)
        width, height = (max(self.crop_from, round(side * scale)) for side in image.size)
        scaled = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - self.width) // 2, (height - self.height) // 2
        return scaled.crop((left, top, left + self.width, top + self.height))


@dataclass(frozen=True, kw_only=True)
class FilePixels:
    """One image file per example, decoded when its row is asked for.

    Attributes:
        paths: The files, in stored order.
        mode: `L` for one channel, `RGB` for three; every file is converted to it.
        frame: Brings every file to one size.
    """

    paths: tuple[Path, ...]
    mode: Literal["L", "RGB"]
    frame: Frame

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return (1 if self.mode == "L" else 3), self.frame.height, self.frame.width

    @property
    def dtype(self) -> np.dtype[Any]:
        """Always uint8."""
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        """The number of files."""
        return len(self.paths)

    def read(self, rows: Rows) -> Array:
        """The images of these rows, (n, C, H, W) uint8.

        Raises:
            MissingFile: A file is gone.
            CorruptFile: A file cannot be decoded.
        """
        images = np.empty((len(rows), *self.shape), dtype=np.uint8)
        for position, row in enumerate(rows):
            images[position] = self._decode(self.paths[row])
        return images

    def _decode(self, path: Path) -> Array:
        with reading(path, "an image"), open_image(path) as image:
            pixels = np.asarray(self.frame.apply(image.convert(self.mode)), dtype=np.uint8)
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def open_image(path: Path) -> Image.Image:
    """Open an image file of 8 bits per channel; only its header is read.

    Raises:
        CorruptFile: It is no image, or so large that decoding it would exhaust memory.
        BadInput: Its pixels have more than 8 bits, which a conversion would silently cut off.
    """
    try:
        image = Image.open(path)
    except (Image.DecompressionBombError, SyntaxError) as error:
        raise CorruptFile(f"{path} is not opened as an image: {error}") from error
    if image.mode not in GREY_MODES | COLOUR_MODES:
        mode = image.mode
        image.close()
        raise BadInput(
            f"{path} has pixels of kind {mode!r}. Allowed: grey or colour of 8 bits per channel. "
            "Convert it first."
        )
    return image

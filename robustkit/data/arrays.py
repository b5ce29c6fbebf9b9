"""Labelled images in one file of arrays: `.npz` of NumPy, or `.safetensors`.

Both hold `inputs`, float32 (N, C, H, W) in [0, 1] or uint8 (N, H, W[, C]), and `labels`, (N,)
integers; `ids`, (N,) int64, may be there too. Where the file stores the inputs as they are, they
are mapped and not read into memory. Neither kind can make anything run: pickled objects inside are
refused.
"""

import json
import math
import struct
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from robustkit.data.checks import check_range, refuse_channels_last
from robustkit.data.labelled_images import LabelledImages
from robustkit.data.loading import Request
from robustkit.data.pixels import Array, ArrayPixels, MappedPixels, Pixels, channels_first
from robustkit.data.reading import reading
from robustkit.errors import BadInput, CorruptFile

_CHUNK = 2**20
_LOCAL_HEADER = 30
_TYPES = {"U8": "uint8", "F32": "float32"}

Parts = tuple[Pixels, Tensor, Tensor | None]


def load_array_file(
    path: Path, request: Request, *, class_names: list[str] | None = None
) -> LabelledImages:
    """The labelled images in a file of arrays; it is one set, given for any split.

    Raises:
        MissingFile: It is not there.
        CorruptFile: It is truncated, damaged, of another format, or holds pickled objects.
        BadInput: An array is missing, or values or labels are out of range, or it is empty.
        ShapeMismatch: The arrays have other shapes or types than allowed.
    """
    read = _read_npz if path.suffix == ".npz" else _read_safetensors
    pixels, labels, ids = read(path)
    refuse_channels_last((len(pixels), *pixels.shape), request.spec)
    images = LabelledImages(
        pixels, labels, spec=request.spec, split=request.split, class_names=class_names, ids=ids
    )
    check_range(pixels, request.spec)
    return images


def _require(path: Path, present: set[str]) -> None:
    missing = sorted({"inputs", "labels"} - present)
    if missing:
        raise BadInput(
            f"{path} holds no {' and no '.join(missing)}; it has {', '.join(sorted(present))}. "
            "Needed are inputs, (N, C, H, W) float32 in [0, 1] or (N, H, W[, C]) uint8, and "
            "labels, (N,) integers."
        )


def _read_npz(path: Path) -> Parts:
    with reading(path, "an .npz file"), zipfile.ZipFile(path) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
        _require(path, names)
        pixels = _npz_inputs(path, archive)
        labels = _tensor(_member(path, archive, "labels"), path)
        ids = _tensor(_member(path, archive, "ids"), path) if "ids" in names else None
    return pixels, labels, ids


def _tensor(array: Array, path: Path) -> Tensor:
    if array.dtype.kind not in "iu" or array.dtype == np.uint64:
        raise BadInput(
            f"{path} has labels or ids of type {array.dtype}; allowed are integers of up to 64 "
            "bits with a sign."
        )
    return torch.from_numpy(array.astype(np.int64))


def _npz_inputs(path: Path, archive: zipfile.ZipFile) -> Pixels:
    info = archive.getinfo("inputs.npy")
    with archive.open(info) as member:
        shape, order, dtype = _npy_header(member, info, path)
        # Of the stored shape and type, without the memory.
        channels_first(np.broadcast_to(np.zeros((), dtype=dtype), shape))
        if info.compress_type != zipfile.ZIP_STORED:
            flat = np.frombuffer(member.read(), dtype=dtype)
            return ArrayPixels(array=channels_first(flat.reshape(shape, order=order)))
        within = member.tell()
        # Reading to the end is what verifies the checksum of the member.
        while member.read(_CHUNK):
            pass
    if 0 in shape:
        return ArrayPixels(array=channels_first(np.empty(shape, dtype=dtype)))
    return MappedPixels(
        path=path.resolve(),
        offset=_member_start(path, info) + within,
        stored_shape=shape,
        stored_dtype=dtype.str,
        order=order,
    )


def _member(path: Path, archive: zipfile.ZipFile, name: str) -> Array:
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as member:
        shape, order, dtype = _npy_header(member, info, path)
        return np.frombuffer(member.read(), dtype=dtype).reshape(shape, order=order)


def _npy_header(
    member: Any,  # noqa: ANN401 - what zipfile gives is no class of the typing module
    info: zipfile.ZipInfo,
    path: Path,
) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype[Any]]:
    """Shape, order and type of a stored array, checked against the size of its member."""
    version = np.lib.format.read_magic(member)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise CorruptFile(f"{path}: {info.filename} has the unknown .npy version {version}.")
    shape, fortran, dtype = readers[version](member)
    if dtype.hasobject:
        raise CorruptFile(
            f"{path}: {info.filename} holds pickled Python objects, which could run code and are "
            "never loaded. Save plain arrays of numbers."
        )
    expected = member.tell() + math.prod(shape) * dtype.itemsize
    if expected != info.file_size:
        raise CorruptFile(
            f"{path}: {info.filename} has {info.file_size} bytes where its header announces "
            f"{expected}. Save it again."
        )
    return shape, "F" if fortran else "C", dtype


def _member_start(path: Path, info: zipfile.ZipInfo) -> int:
    with path.open("rb") as stream:
        stream.seek(info.header_offset)
        name, extra = struct.unpack("<HH", stream.read(_LOCAL_HEADER)[26:])
    return info.header_offset + _LOCAL_HEADER + int(name) + int(extra)


def _read_safetensors(path: Path) -> Parts:
    with reading(path, "a .safetensors file"):
        try:
            with safe_open(path, framework="pt") as stored:
                names = set(stored.keys())
                _require(path, names)
                part = stored.get_slice("inputs")
                shape, kind = tuple(part.get_shape()), str(part.get_dtype())
                labels = stored.get_tensor("labels")
                ids = stored.get_tensor("ids") if "ids" in names else None
        except SafetensorError as error:
            raise CorruptFile(
                f"{path} cannot be read as a .safetensors file: {error}. The file is damaged or of "
                "another format; get it again."
            ) from error
        if kind not in _TYPES:
            raise BadInput(
                f"{path} has inputs of type {kind}; allowed are F32 in [0, 1] and U8. Convert them."
            )
        # Of the stored shape and type, without the memory.
        view = channels_first(np.broadcast_to(np.zeros((), dtype=_TYPES[kind]), shape))
        pixels: Pixels = ArrayPixels(array=view)
        if shape[0] > 0:
            pixels = MappedPixels(
                path=path.resolve(),
                offset=_tensor_start(path, "inputs"),
                stored_shape=shape,
                stored_dtype=np.dtype(_TYPES[kind]).newbyteorder("<").str,
            )
    return pixels, labels, ids


def _tensor_start(path: Path, name: str) -> int:
    # The library has checked the header by now; it gives no offsets, which mapping needs.
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    return 8 + int(length) + int(header[name]["data_offsets"][0])

"""Sets of labelled images that robustkit writes: a directory with `robustkit.json`.

    DIR/robustkit.json                 what the directory holds
    DIR/SPLIT-HASH.safetensors         inputs, labels and ids of one split

The JSON object has `kind` (`data`), `version` (1), `class_names` (a list of names) and `splits`,
which gives for each split its `file`, the `sha256` of its content as `LabelledImages` computes it,
its number of images `n` and its `source`, the words by which the original was loaded.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from robustkit.data.arrays import load_array_file
from robustkit.data.labelled_images import LabelledImages
from robustkit.data.loading import Request
from robustkit.data.reading import reading
from robustkit.errors import BadInput, CorruptFile, UnknownName
from robustkit.files import StreamedTensor, safetensors, write_atomically

MANIFEST = "robustkit.json"
_VERSION = 1
_TYPES = {"uint8": "U8", "float32": "F32"}


def save(images: LabelledImages, directory: Path) -> Path:
    """Write labelled images into a directory that `load` reads back, ids and hash included.

    A directory that already holds other splits of the same classes gains this one; the split of
    the same name is replaced. Whatever interrupts it, the directory holds either the old state or
    the new.

    Args:
        images: At least one; memory use does not grow with their number.
        directory: Created if need be.

    Returns:
        The path of its `robustkit.json`.

    Raises:
        BadInput: There are no images, or the directory holds something else.
        CannotWrite: Writing failed; what was there before is intact.
    """
    if len(images) == 0 or not re.fullmatch(r"\w[\w-]*", images.split):
        raise BadInput(
            f"{images!r} cannot be saved. Allowed: at least one image, and a split whose name has "
            "letters, digits, '-' and '_' only."
        )
    manifest = directory / MANIFEST
    splits = _other_splits(manifest, images)
    name = f"{images.split}-{images.sha256[:12]}.safetensors"
    old = splits.get(images.split, {}).get("file", name)
    splits[images.split] = {
        "file": name,
        "sha256": images.sha256,
        "n": len(images),
        "source": images.spec,
    }
    content = {
        "kind": "data",
        "version": _VERSION,
        "class_names": list(images.class_names),
        "splits": splits,
    }
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write_atomically(directory / name, safetensors(_tensors(images)))
    write_atomically(manifest, text)
    if old != name:
        (directory / Path(old).name).unlink(missing_ok=True)
    return manifest


def load_saved(directory: Path, request: Request) -> LabelledImages:
    """Read a directory written by `save`; its content is verified against the hash in it.

    Raises:
        UnknownName: It has no such split.
        BadInput: It holds something else than data.
        CorruptFile: It is damaged.
    """
    manifest = directory / MANIFEST
    content = _read_manifest(manifest)
    splits = content["splits"]
    if request.split not in splits:
        raise UnknownName(f"split of {request.spec!r}", request.split, splits)
    split = splits[request.split]
    path = directory / split["file"]
    images = load_array_file(path, request, class_names=content["class_names"])
    if images.sha256 != split["sha256"]:
        raise CorruptFile(
            f"{path} does not hold what {manifest} says: its content has the hash "
            f"{images.sha256}, expected is {split['sha256']}. Write the directory again."
        )
    return images


def _read_manifest(manifest: Path) -> dict[str, Any]:
    with reading(manifest, "the description of a saved set"):
        content = json.loads(manifest.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.get("kind") != "data":
        raise BadInput(f"{manifest} describes no data. Give a directory of labelled images.")
    if content.get("version") != _VERSION:
        raise BadInput(
            f"{manifest} has the version {content.get('version')!r}; this robustkit reads "
            f"{_VERSION}. Use the robustkit that wrote it, or write it again."
        )
    names, splits = content.get("class_names"), content.get("splits")
    named = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not named or not isinstance(splits, dict) or not all(map(_is_split, splits.values())):
        raise CorruptFile(f"{manifest} lacks class names or splits. Write the directory again.")
    return content


def _is_split(split: object) -> bool:
    if not isinstance(split, dict):
        return False
    name = split.get("file")
    # A plain name: a directory from a stranger may not point at other files.
    plain = isinstance(name, str) and Path(name).name == name and name.endswith(".safetensors")
    return plain and isinstance(split.get("sha256"), str)


def _other_splits(manifest: Path, images: LabelledImages) -> dict[str, Any]:
    if not manifest.exists():
        return {}
    content = _read_manifest(manifest)
    if tuple(content["class_names"]) != images.class_names:
        raise BadInput(
            f"{manifest.parent} holds a set of other classes. Save to another directory."
        )
    splits: dict[str, Any] = content["splits"]
    return splits


def _tensors(images: LabelledImages) -> dict[str, StreamedTensor]:
    n, (channels, height, width) = len(images), images.shape
    kind = str(images.stored(slice(0, 1)).numpy().dtype)
    as_bytes = kind == "uint8"
    shape = (n, height, width, channels) if as_bytes else (n, channels, height, width)
    return {
        "labels": StreamedTensor("I64", (n,), (images.labels.numpy().astype("<i8").tobytes(),)),
        "ids": StreamedTensor("I64", (n,), (images.ids.numpy().astype("<i8").tobytes(),)),
        "inputs": StreamedTensor(_TYPES[kind], shape, _pixels(images, as_bytes=as_bytes)),
    }


def _pixels(images: LabelledImages, *, as_bytes: bool) -> Iterator[bytes]:
    for rows in images.chunks():
        part = images.stored(rows).numpy()
        yield (part.transpose(0, 2, 3, 1) if as_bytes else part.astype("<f4")).tobytes()

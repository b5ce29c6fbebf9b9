"""Folders of image files, one subfolder per class: `DIR/CLASS/*`, or `DIR/SPLIT/CLASS/*`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from robustkit.data.labelled_images import LabelledImages
from robustkit.data.loading import Request
from robustkit.data.pixels import GREY_MODES, FilePixels, Frame, open_image
from robustkit.data.reading import reading
from robustkit.errors import BadInput, MissingFile

_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
_SPLITS = frozenset({"test", "train", "val", "valid", "validation"})


@dataclass(frozen=True, kw_only=True, slots=True)
class _Looks:
    """What the headers of all files say together."""

    grey: bool
    size: tuple[int, int] | None


def load_folder(folder: Path, request: Request) -> LabelledImages:
    """The images of a folder of classes, decoded one by one as they are asked for.

    Classes are numbered by the sorted names of their subfolders, and stored order is class by
    class, then by file name. Where all subfolders are called `train`, `test` or the like, each is
    taken for a split, and classes are numbered over all of them together; otherwise the folder is
    one set, given for any split. One channel if every file is grey, else three. Where sizes differ,
    the shorter side is scaled to `request.size` and the centre cut out. Files that are no images by
    their suffix are passed over.

    Raises:
        BadInput: There are no classes or no images, or a file may not be read.
        MissingFile: The folder has splits, and not the one asked for.
        CorruptFile: A file does not begin like an image.
    """
    with reading(folder, "a folder of classes"):
        parts = _subfolders(folder)
        divided = bool(parts) and {part.name for part in parts} <= _SPLITS
        if divided and request.split not in {part.name for part in parts}:
            raise MissingFile(
                f"{folder} has no split {request.split!r}; it has "
                f"{', '.join(part.name for part in parts)}. Ask for one of these (--split)."
            )
        chosen = folder / request.split if divided else folder
        names = _class_names(parts if divided else [folder])
        listed = [
            (path, label) for label, name in enumerate(names) for path in _images(chosen / name)
        ]
    if not listed:
        loose = len(_images(chosen))
        found = f"holds {loose} image files, but in no subfolders" if loose else "holds no images"
        raise BadInput(
            f"{chosen} {found}. Expected are subfolders, one per class and named after it, with "
            f"image files ({', '.join(sorted(_SUFFIXES))}). Put the images there."
        )
    paths, labels = zip(*listed, strict=True)
    looks = _survey(paths)
    frame = (
        Frame(height=request.size, width=request.size, crop_from=request.size)
        if looks.size is None
        else Frame(height=looks.size[1], width=looks.size[0])
    )
    return LabelledImages(
        FilePixels(paths=paths, mode="L" if looks.grey else "RGB", frame=frame),
        torch.tensor(labels),
        spec=request.spec,
        split=request.split,
        class_names=names,
    )


def _subfolders(folder: Path) -> list[Path]:
    visible = (item for item in folder.iterdir() if not item.name.startswith("."))
    return sorted(item for item in visible if item.is_dir())


def _class_names(parts: Sequence[Path]) -> list[str]:
    return sorted({item.name for part in parts for item in _subfolders(part)})


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    visible = (item for item in folder.iterdir() if not item.name.startswith("."))
    return sorted(item for item in visible if item.suffix.lower() in _SUFFIXES and item.is_file())


def _survey(paths: Sequence[Path]) -> _Looks:
    modes: set[str] = set()
    sizes: set[tuple[int, int]] = set()
    for path in paths:
        with reading(path, "an image"), open_image(path) as image:
            modes.add(image.mode)
            sizes.add(image.size)
    return _Looks(grey=modes <= GREY_MODES, size=sizes.pop() if len(sizes) == 1 else None)

"""German Traffic Sign Recognition Benchmark, in the layout torchvision gives it."""

import csv
from pathlib import Path

import torch

from robustkit.data import class_names
from robustkit.data.labelled_images import LabelledImages
from robustkit.data.loading import Request
from robustkit.data.pixels import FilePixels, Frame
from robustkit.data.places import locate
from robustkit.data.reading import is_there, reading
from robustkit.errors import BadInput, CorruptFile

_TABLE = "GT-final_test.csv"
_FOLDERS = {"test": "GTSRB/Final_Test/Images", "train": "GTSRB/Training"}

Listed = list[tuple[Path, int]]


def load_gtsrb(request: Request) -> LabelledImages:
    """GTSRB, (3, size, size): the signs differ in size, and each is stretched over the square.

    Looked for in `gtsrb/GTSRB/Training/CLASS/*.ppm`, and for the test part in
    `gtsrb/GTSRB/Final_Test/Images` with the labels in `gtsrb/GT-final_test.csv`.
    """
    split = request.one_of("test", "train")
    needed = (_FOLDERS[split], _TABLE) if split == "test" else (_FOLDERS[split],)

    def find(folder: Path) -> Path | None:
        return folder if all(is_there(folder / name) for name in needed) else None

    folder = locate(request, find, below=("gtsrb", "GTSRB"), files=needed)
    listed = _test(folder) if split == "test" else _train(folder / _FOLDERS[split])
    if not listed:
        raise BadInput(f"{folder} lists no image of the split {split!r}. Get the set again.")
    paths, labels = zip(*listed, strict=True)
    return LabelledImages(
        FilePixels(paths=paths, mode="RGB", frame=Frame(height=request.size, width=request.size)),
        torch.tensor(labels),
        spec=request.spec,
        split=split,
        class_names=class_names.of("gtsrb"),
    )


def _train(folder: Path) -> Listed:
    with reading(folder, "folders 00000 to 00042 of images"):
        return [(path, int(path.parent.name)) for path in sorted(folder.glob("*/*.ppm"))]


def _test(folder: Path) -> Listed:
    path = folder / _TABLE
    with reading(path, "a table of Filename and ClassId"), path.open(newline="") as stream:
        try:
            return [
                (folder / _FOLDERS["test"] / _plain(row["Filename"]), int(row["ClassId"]))
                for row in csv.DictReader(stream, delimiter=";", skipinitialspace=True)
            ]
        except (KeyError, TypeError, csv.Error) as error:
            raise CorruptFile(
                f"{path} is no table with the columns Filename and ClassId: {error}. Get it again."
            ) from error


def _plain(name: str) -> str:
    if Path(name).name != name:
        raise ValueError(f"{name!r} is not the name of a file")
    return name

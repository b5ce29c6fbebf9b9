"""From words to labelled images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from robustkit import registry
from robustkit.data.labelled_images import LabelledImages
from robustkit.data.reading import is_there
from robustkit.errors import BadInput, MissingFile, UnknownName

Select = Literal["first", "stratified"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a loader is asked for.

    Attributes:
        spec: The name of the set, or a path.
        split: Which part of it.
        root: Where the user keeps data; searched first.
        size: The height and width that images of mixed sizes are brought to, in pixels.
        download: Whether a set that is not on this machine may be fetched.
    """

    spec: str
    split: str = "test"
    root: Path | None = None
    size: int = 32
    download: bool = False

    def one_of(self, *splits: str) -> str:
        """The split asked for.

        Raises:
            UnknownName: It is none of `splits`.
        """
        if self.split not in splits:
            raise UnknownName(f"split of {self.spec!r}", self.split, splits)
        return self.split


Loader = Callable[[Request], LabelledImages]


def load(
    spec: str,
    *,
    split: str = "test",
    root: Path | None = None,
    size: int = 32,
    n: int | None = None,
    select: Select = "first",
    seed: int = 0,
    download: bool = False,
) -> LabelledImages:
    """Labelled images by name or by path.

    Args:
        spec: A registered name (`samples:cifar10`, `digits`, `fashion-mnist`; see
            `robustkit list data`), or a path: a folder `DIR/CLASS/*` of image files, an `.npz` or
            `.safetensors` file of `inputs` and `labels`, or a directory written by `save`. A name
            goes before a path of the same spelling; write `./digits` for the path.
        split: `test` or `train`; some sets have others. A path without parts of its own (one
            array file, a folder of classes) is taken whole for any split.
        root: A folder to look in first for a named set; then `ROBUSTKIT_DATA`, the user's cache and
            the system's data packages follow.
        size: Height and width for images of mixed sizes, in pixels; where all have one size, they
            keep it.
        n: How many images; all by default.
        select: Which n: the `first` in stored order, or a class-balanced choice (`stratified`).
        seed: Chooses among the class-balanced choices.
        download: Whether a set that is not on this machine may be fetched. Off by default.

    Raises:
        UnknownName: No such set, split or selection.
        MissingFile: The set's files are in none of the places searched, or `root` is no folder.
        CorruptFile: A file is there and damaged.
        BadInput: The images or labels are not what they must be, or n is out of range.
    """
    if size < 1:
        raise BadInput(f"A size of {size} pixels was given; allowed is 1 or more.")
    if select not in ("first", "stratified"):
        raise UnknownName("selection", select, ("first", "stratified"))
    # A download makes the folder.
    if root is not None and not download and not root.expanduser().is_dir():
        raise MissingFile(
            f"There is no folder {str(root)!r} to look for data in (--data-root). Correct it, or "
            "leave it out."
        )
    request = Request(spec=spec, split=split, root=root, size=size, download=download)
    images = _loader(spec)(request)
    if n is None:
        return images
    return images.first(n) if select == "first" else images.stratified(n, seed=seed)


def _loader(spec: str) -> Loader:
    known = registry.entries("data")
    if spec in known:
        loader: Loader = known[spec].load()
        return loader
    if not _looks_like_path(spec):
        raise UnknownName("data", spec, known)
    from robustkit.data.paths import load_path

    return load_path


def _looks_like_path(spec: str) -> bool:
    path = Path(spec).expanduser()
    return len(path.parts) > 1 or path.suffix in (".npz", ".safetensors") or is_there(path)

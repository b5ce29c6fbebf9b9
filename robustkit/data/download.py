"""Fetching a well-known set through torchvision: its addresses, its checksums, its progress bar."""

import contextlib
import errno
import functools
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from robustkit.errors import CannotWrite, MissingFile

_CANNOT_WRITE = (
    errno.EACCES,
    errno.EDQUOT,
    errno.EEXIST,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)
_ARCHIVES = (".gz", ".zip", ".tar")


def download(spec: str, split: str, place: Path, *, searched: Sequence[Path] = ()) -> None:
    """Fetch one split of a set into a folder, in torchvision's layout.

    Everything is fetched, checked and unpacked beside its destination and then moved there, so that
    an interruption leaves no half-written file where data is looked for.

    Args:
        spec: The name of the set.
        split: Which part; some sets come whole.
        place: The folder to fetch into; created if need be.
        searched: Where the files were looked for before, for the message.

    Raises:
        MissingFile: The network or the server did not give the files, or their checksum is wrong.
        CannotWrite: They could not be stored.
    """
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=place) as unpacked:
            # Standard output belongs to results; some versions of torchvision print there.
            with contextlib.redirect_stdout(sys.stderr):
                _fetcher(spec, split)(Path(unpacked))
            _move_into(Path(unpacked), place)
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno in _CANNOT_WRITE:
            raise CannotWrite(
                f"{spec!r} could not be stored in {place}: {error.strerror}. Free some space or "
                "name another folder (--data-root)."
            ) from error
        where = f" Looked before in: {', '.join(map(str, searched))}." if searched else ""
        raise MissingFile(
            f"{spec!r} could not be downloaded: {error}.{where} Check the connection, or fetch the "
            "files elsewhere and name the folder that holds them (--data-root or ROBUSTKIT_DATA)."
        ) from error


def _fetcher(spec: str, split: str) -> Callable[[Path], object]:
    from torchvision import datasets

    train = split == "train"
    fetchers: dict[str, Callable[..., object]] = {
        "mnist": functools.partial(datasets.MNIST, train=train),
        "fashion-mnist": functools.partial(datasets.FashionMNIST, train=train),
        "cifar10": functools.partial(datasets.CIFAR10, train=train),
        "cifar100": functools.partial(datasets.CIFAR100, train=train),
        "svhn": functools.partial(datasets.SVHN, split=split),
        "gtsrb": functools.partial(datasets.GTSRB, split=split),
    }
    return functools.partial(fetchers[spec], download=True)


def _move_into(source: Path, target: Path) -> None:
    """Move what `source` holds, archives apart, whole folders at once where they are new."""
    for item in source.iterdir():
        destination = target / item.name
        if item.is_dir() and destination.is_dir():
            _move_into(item, destination)
        elif item.is_dir():
            _drop_archives(item)
            item.rename(destination)
        elif item.suffix not in _ARCHIVES:
            item.replace(destination)


def _drop_archives(folder: Path) -> None:
    for item in folder.rglob("*"):
        if item.suffix in _ARCHIVES:
            item.unlink()

"""Where data is looked for."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from robustkit.data.download import download
from robustkit.data.loading import Request
from robustkit.data.reading import is_there
from robustkit.errors import MissingFile

Found = TypeVar("Found")

SYSTEM = Path("/usr/share/datasets")


def places(root: Path | None) -> tuple[Path, ...]:
    """The folders searched, in order: `root`, `ROBUSTKIT_DATA`, the user's cache, the system's.

    The last is where Debian's data packages install.
    """
    named = [root] if root is not None else []
    variable = os.environ.get("ROBUSTKIT_DATA")
    if variable:
        named.append(Path(variable))
    return tuple(dict.fromkeys(place.expanduser() for place in (*named, cache(), SYSTEM)))


def cache() -> Path:
    """The user's cache: `$XDG_CACHE_HOME/robustkit`, by default `~/.cache/robustkit`."""
    home = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification has relative paths in this variable ignored.
    base = Path(home) if home and Path(home).is_absolute() else Path("~/.cache").expanduser()
    return base / "robustkit"


def download_place(root: Path | None) -> Path:
    """Where a download goes: the first of the places that belongs to the user."""
    return places(root)[0]


def candidates(root: Path | None, *, below: Sequence[str]) -> tuple[Path, ...]:
    """The folders in which one set may lie, in order of search.

    Args:
        root: Where the user keeps data.
        below: The set's own folders under such a place, such as `MNIST/raw`. A place that itself
            ends in one of these names counts too.
    """
    found: list[Path] = []
    for place in places(root):
        found.extend(place / name for name in below)
        if any(_ends_in(place, name) for name in below):
            found.append(place)
    return tuple(found)


def _ends_in(place: Path, name: str) -> bool:
    parts = Path(name).parts
    return place.parts[-len(parts) :] == parts


def locate(
    request: Request,
    find: Callable[[Path], Found | None],
    *,
    below: Sequence[str],
    files: Sequence[str],
) -> Found:
    """The files of one set, in the first place that has them, fetched where that is allowed.

    Args:
        request: What is asked for.
        find: Gives a folder's files of the set, or None where it does not have them all.
        below: The set's own folders under a place.
        files: What `find` looks for, for the message.

    Raises:
        MissingFile: They are in no place, and may not or cannot be fetched.
    """
    folders = candidates(request.root, below=below)
    for folder in folders:
        found = find(folder)
        if found is not None:
            return found
    if request.download:
        place = download_place(request.root)
        download(request.spec, request.split, place, searched=folders)
        return locate(replace(request, download=False), find, below=below, files=files)
    raise MissingFile(
        f"The files of {request.spec!r} (split {request.split!r}) are not on this machine. Looked "
        f"for {', '.join(files)} in: {', '.join(map(str, folders))}. Put them there, name the "
        "folder that holds them (--data-root or ROBUSTKIT_DATA), or allow the download "
        "(--download, in Python download=True)."
    )


def first_file(folder: Path, *names: str) -> Path | None:
    """The first existing file called one of `names` in a folder."""
    return next((folder / name for name in names if is_there(folder / name)), None)

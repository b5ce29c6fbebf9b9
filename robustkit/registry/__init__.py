"""Names to factories, imported on demand.

A line of the registry tells what a thing is called, where its code lives and what it needs, so that
`robustkit list` answers without importing torch. Other packages add lines through the entry point
group `robustkit`: each entry point names an iterable of `Entry`. What is wrong with theirs is told
once, and left out.
"""

import functools
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType

from robustkit.errors import RobustkitWarning, UnknownName
from robustkit.registry.builtin import BUILTIN
from robustkit.registry.entry import KINDS, Entry

__all__ = ["BUILTIN", "KINDS", "Entry", "entries", "find", "singular"]


def entries(kind: str) -> Mapping[str, Entry]:
    """All entries of one kind, by name, in their order of registration."""
    if kind not in KINDS:
        raise UnknownName("kind", kind, KINDS)
    return MappingProxyType({entry.name: entry for entry in _all() if entry.kind == kind})


def find(kind: str, name: str) -> Entry:
    """The entry called `name`.

    Raises:
        UnknownName: There is none; the message offers near names.
    """
    known = entries(kind)
    if name not in known:
        raise UnknownName(singular(kind), name, known)
    return known[name]


def singular(kind: str) -> str:
    """What one thing of a kind is called."""
    return {
        "data": "data set",
        "losses": "loss",
        "threats": "threat model",
        "unlearnable": "kind of unlearnable data",
    }.get(kind, kind[:-1])


@functools.cache
def _all() -> tuple[Entry, ...]:
    return (*BUILTIN, *_plugins())


def _plugins() -> Iterator[Entry]:
    taken = {(entry.kind, entry.name) for entry in BUILTIN}
    for point in entry_points(group="robustkit"):
        for line in _lines(point):
            problem = _problem(line, taken)
            if problem is None:
                taken.add((line.kind, line.name))
                yield line
            else:
                _leave_out(point, problem)


def _lines(point: EntryPoint) -> list[Entry]:
    """What an entry point names; nothing where the code behind it fails."""
    try:
        return list(point.load())
    except (Exception, SystemExit) as error:
        _leave_out(point, f"{point.value!r} cannot be read: {type(error).__name__}: {error}")
        return []


def _problem(line: Entry, taken: set[tuple[str, str]]) -> str | None:
    """Why a line of another package is not taken."""
    # Other packages are not type-checked.
    if not isinstance(line, Entry):
        return f"{line!r} is no robustkit.registry.Entry"
    if line.kind not in KINDS:
        return f"{line.name!r} is of the kind {line.kind!r}; known are {', '.join(KINDS)}"
    if (line.kind, line.name) in taken:
        return f"another {singular(line.kind)} is called {line.name!r} already; rename it"
    return None


def _leave_out(point: EntryPoint, problem: str) -> None:
    owner = point.dist.name if point.dist is not None else point.name
    warnings.warn(
        f"The plug-in {owner!r} is left out in part: {problem}.", RobustkitWarning, stacklevel=2
    )

"""Names to factories, imported on demand.

A line of the registry tells what a thing is called, where its code lives and what it needs, so that
`robustkit list` answers without importing torch. Other packages add lines through the entry point
group `robustkit`: each entry point names an iterable of `Entry`.
"""

import functools
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from types import MappingProxyType

from robustkit.errors import UnknownName
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


def _plugins() -> Iterable[Entry]:
    for point in entry_points(group="robustkit"):
        yield from point.load()

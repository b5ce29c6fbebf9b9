"""Names to factories, imported on demand.

A line of the registry tells what a thing is called, where its code lives and what it needs, so that
`robustkit list` answers without importing torch. Other packages add lines through the entry point
group `robustkit`: each entry point names an iterable of `Entry`.
"""

import functools
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any

from robustkit.errors import MissingExtra, UnknownName

KINDS = ("attacks", "models", "data", "threats", "plans")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One registered thing.

    Attributes:
        kind: One of `KINDS`.
        name: Lower case with hyphens; what users type.
        target: `module:attribute`, imported only when the thing is used.
        summary: One line.
        access: What an attack must see: `decision`, `score` or `gradient`; empty for other kinds.
        norms: Norms an attack works in.
        goals: Goals an attack can pursue.
        extra: The optional dependency group it needs, if any.
    """

    kind: str
    name: str
    target: str
    summary: str
    access: str = ""
    norms: tuple[str, ...] = ()
    goals: tuple[str, ...] = ()
    extra: str = ""

    def load(self) -> Any:  # noqa: ANN401 - a registry holds classes and functions of any kind
        """Import and return what `target` names.

        Raises:
            MissingExtra: The module needs a package that is not installed.
        """
        module, _, attribute = self.target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            install = f"robustkit[{self.extra}]" if self.extra else str(error.name)
            raise MissingExtra(
                f"{self.name!r} needs the package {error.name!r}, which is not installed. "
                f"Install it with: pip install '{install}'"
            ) from error


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
        raise UnknownName(kind.rstrip("s"), name, known)
    return known[name]


@functools.cache
def _all() -> tuple[Entry, ...]:
    return (*BUILTIN, *_plugins())


def _plugins() -> Iterable[Entry]:
    for point in entry_points(group="robustkit"):
        yield from point.load()


_DATA = (
    ("samples:cifar10", "samples:load_samples", "20 CIFAR-10 test images, carried by Foolbox"),
    ("samples:cifar100", "samples:load_samples", "20 CIFAR-100 test images, carried by Foolbox"),
    ("samples:mnist", "samples:load_samples", "20 MNIST test images, carried by Foolbox"),
    (
        "samples:fashion-mnist",
        "samples:load_samples",
        "20 Fashion-MNIST test images, carried by Foolbox",
    ),
    (
        "samples:imagenet",
        "samples:load_samples",
        "20 ImageNet photographs at 224 x 224, carried by Foolbox",
    ),
    ("digits", "digits:load_digits", "1,797 grey digits of 8 x 8, carried by scikit-learn"),
    ("mnist", "idx:load_mnist", "MNIST, from idx files"),
    (
        "fashion-mnist",
        "idx:load_fashion_mnist",
        "Fashion-MNIST, from idx files; also Debian's package",
    ),
    ("cifar10", "cifar:load_cifar10", "CIFAR-10, from its Python or binary batches"),
    ("cifar100", "cifar:load_cifar100", "CIFAR-100, from its Python or binary batches"),
    ("svhn", "svhn:load_svhn", "Street View House Numbers, from its .mat files"),
    ("gtsrb", "gtsrb:load_gtsrb", "German traffic signs, from torchvision's layout"),
)

BUILTIN: tuple[Entry, ...] = (
    *(
        Entry(kind="data", name=name, target=f"robustkit.data.{target}", summary=summary)
        for name, target, summary in _DATA
    ),
)

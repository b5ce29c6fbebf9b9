"""One line of the registry."""

import importlib
from dataclasses import dataclass
from typing import Any

from robustkit.errors import MissingExtra

KINDS = (
    "attacks",
    "plans",
    "defenses",
    "unlearnable",
    "learners",
    "models",
    "data",
    "threats",
    "losses",
    "recipes",
)


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

"""What can go wrong, by cause.

Every error of robustkit derives from `RobustkitError` and from the built-in a caller would expect.
A message says what was given, what is allowed and what to do. `exit_code` is what the command line
returns for it.
"""

import difflib
from collections.abc import Iterable
from typing import ClassVar

# Names beyond which a message that has near names does not list all.
_LONG = 30


class RobustkitError(Exception):
    """Base of everything robustkit raises on purpose."""

    exit_code: ClassVar[int] = 1


class BadInput(RobustkitError, ValueError):
    """A value, name or file that the caller can correct."""

    exit_code: ClassVar[int] = 2


class UnknownName(BadInput, LookupError):
    """A name that is not registered; offers the nearest ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        """Args: what is named (`attack`), the name given, and the names that exist."""
        names = sorted(known)
        spelled = {known_name.lower(): known_name for known_name in names}
        near = difflib.get_close_matches(name.lower(), spelled, n=3, cutoff=0.5)
        hint = f"Did you mean {', '.join(spelled[match] for match in near)}? " if near else ""
        # A long list would bury the hint.
        listed = "" if near and len(names) > _LONG else f"Known: {', '.join(names) or 'none'}."
        super().__init__(f"No {kind} is called {name!r}. {hint}{listed}".rstrip())


class MissingFile(BadInput, FileNotFoundError):
    """A file or folder that should be there and is not."""


class CorruptFile(BadInput):
    """A file that is there and cannot be read as what it should be."""


class WeightsMismatch(BadInput):
    """Weights that do not fit the model they are loaded into."""


class DoesNotFit(BadInput):
    """An attack or defense that does not fit the threat model; the message says why."""


class MissingExtra(BadInput, ImportError):
    """An optional package that is needed and not installed."""


class ShapeMismatch(BadInput):
    """Tensors whose shape, dtype or device do not belong together."""


class BudgetExceeded(RobustkitError, RuntimeError):
    """An attack asked for more queries than the threat model grants."""


class Violation(RobustkitError, RuntimeError):
    """An attack returned what the threat model does not allow; nothing was made of it."""

    exit_code: ClassVar[int] = 3


class CannotWrite(RobustkitError, OSError):
    """Writing failed, for example on a full disk; what was written before is intact."""

    exit_code: ClassVar[int] = 4


class DeviceLost(RobustkitError, RuntimeError):
    """The device failed or ran out of memory even for one row; the run can be resumed."""

    exit_code: ClassVar[int] = 4


class RobustkitWarning(UserWarning):
    """The category of every warning robustkit gives."""

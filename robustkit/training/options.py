"""Values from the words of a file or of a command line."""

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from robustkit.errors import BadInput, UnknownName
from robustkit.threat_models import parse_radius

T = TypeVar("T")
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def build(
    kind: Callable[..., T],
    table: Mapping[str, object],
    *,
    where: str,
    given: Mapping[str, Any] = _NOTHING,
) -> T:
    """Call something that takes keywords with the values of a table.

    Args:
        kind: A dataclass, or another class whose keywords are annotated.
        table: Whole numbers, numbers, fractions in quotes, true or false, words and lists.
        where: What messages call the table.
        given: Values that no table can hold.

    Raises:
        BadInput: An unknown key, a value of another type, or one that `kind` refuses.

    Example:
        >>> from robustkit.training.optimizers import SGD
        >>> build(SGD, {"lr": "1/10", "nesterov": True}, where="optimizer").lr
        0.1
    """
    parameters = inspect.signature(kind).parameters
    hints = typing.get_type_hints(kind.__init__)
    allowed = [name for name in parameters if name not in given and _settable(hints[name])]
    unknown = sorted(set(table) - set(allowed))
    if unknown:
        raise BadInput(
            f"{where} has no {', '.join(unknown)}. Allowed: {', '.join(allowed) or 'nothing'}."
        )
    values = {key: _converted(value, hints[key], f"{where}.{key}") for key, value in table.items()}
    missing = [
        name
        for name in allowed
        if name not in values and parameters[name].default is inspect.Parameter.empty
    ]
    if missing:
        raise BadInput(f"{where} needs {', '.join(missing)}.")
    taken = {name: value for name, value in given.items() if name in parameters}
    return kind(**taken, **values)


def named(
    table: Mapping[str, object], kinds: Mapping[str, Callable[..., T]], *, where: str
) -> tuple[Callable[..., T], dict[str, object]]:
    """What a table's `name` means, and the rest of the table.

    Raises:
        BadInput: There is no name, or nothing is called so (`UnknownName`).
    """
    name = table.get("name")
    if not isinstance(name, str):
        raise BadInput(f"{where} needs a name, one of: {', '.join(kinds)}.")
    if name not in kinds:
        raise UnknownName(where, name, kinds)
    return kinds[name], {key: value for key, value in table.items() if key != "name"}


def _settable(hint: object) -> bool:
    if get_origin(hint) in (Union, types.UnionType):
        return any(_settable(part) for part in get_args(hint) if part is not types.NoneType)
    return (
        hint in (bool, int, float, str)
        or get_origin(hint) is Literal
        or (get_origin(hint) is tuple and _settable(get_args(hint)[0]))
    )


def _converted(value: object, hint: object, where: str) -> object:
    try:
        return _as(value, hint)
    except (TypeError, ValueError):
        raise BadInput(f"{where} is {value!r}; it must be {_meaning(hint)}.") from None


def _as(value: object, hint: object) -> object:
    """The value as a declared type; TypeError or ValueError if it is none."""
    if get_origin(hint) in (Union, types.UnionType):
        (kind,) = (part for part in get_args(hint) if part is not types.NoneType)
        return None if value == "none" else _as(value, kind)
    if get_origin(hint) is Literal:
        return get_args(hint)[get_args(hint).index(value)]
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError
        return tuple(_as(part, get_args(hint)[0]) for part in value)
    if hint is float and not isinstance(value, bool) and isinstance(value, int | float | str):
        return parse_radius(value) if isinstance(value, str) else float(value)
    if type(value) is not hint:
        raise TypeError
    return value


def _meaning(hint: object) -> str:
    """A declared type in words."""
    if get_origin(hint) in (Union, types.UnionType):
        parts = [part for part in get_args(hint) if part is not types.NoneType]
        return f"{_meaning(parts[0])}, or none"
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(str(value) for value in get_args(hint))
    if get_origin(hint) is tuple:
        return f"a list, each {_meaning(get_args(hint)[0])}"
    words: dict[object, str] = {
        bool: "true or false",
        int: "a whole number",
        float: "a number or a fraction such as '8/255'",
        str: "a word",
    }
    return words.get(hint, "set in Python code")

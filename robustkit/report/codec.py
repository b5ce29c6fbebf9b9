"""Dataclasses to JSON values and back, checked field by field.

The types of the fields are the whole format: `str`, `int`, `float`, `bool`, `Literal`, `X | None`,
`tuple[X, ...]`, `Mapping[str, X]`, `object` (any JSON value), dataclasses of these, and any of them
annotated with the range `Within` which it must lie. In JSON an infinite number is null, NaN does
not exist, and a field with the metadata `OMITTED_IF_NONE` is left out where it is None.
"""

import dataclasses
import functools
import json
import math
import types
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from robustkit.errors import BadInput, CorruptFile
from robustkit.statistics import Interval

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Within:
    """The range of a field: a number, or both ends of an interval, must lie in it.

    Attributes:
        low: Smallest allowed value.
        high: Largest allowed value.
    """

    low: float
    high: float = math.inf

    def holds(self, value: Any) -> bool:  # noqa: ANN401 - a number or an interval
        """Whether a value lies in the range."""
        ends = (value.low, value.high) if isinstance(value, Interval) else (value, value)
        return bool(self.low <= ends[0] and ends[1] <= self.high)

    def __str__(self) -> str:
        """For messages."""
        if math.isinf(self.high):
            return f"{self.low:g} or larger"
        return f"in [{self.low:g}, {self.high:g}]"


Count = Annotated[int, Within(0)]
Amount = Annotated[float, Within(0)]
Part = Annotated[float, Within(0, 1)]
Share = Annotated[Interval, Within(0, 1)]

# Metadata of a field that is left out of the JSON where it is None.
OMITTED_IF_NONE: Mapping[str, bool] = types.MappingProxyType({"omitted_if_none": True})


def encode(value: object) -> Any:  # noqa: ANN401 - a JSON value
    """The JSON value of a dataclass or of anything inside one.

    Raises:
        BadInput: NaN, or something JSON cannot hold.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return _number(value)
    if dataclasses.is_dataclass(value):
        return {
            field.name: encode(content)
            for field in dataclasses.fields(value)
            if (content := getattr(value, field.name)) is not None
            or not field.metadata.get("omitted_if_none")
        }
    if isinstance(value, Mapping):
        return {str(key): encode(content) for key, content in value.items()}
    if isinstance(value, list | tuple):
        return [encode(content) for content in value]
    raise BadInput(f"A report cannot hold {value!r}, a {type(value).__name__}; use plain values.")


def _number(value: float) -> float | None:
    if math.isnan(value):
        raise BadInput("A report cannot hold NaN. Use null for what could not be measured.")
    return value if math.isfinite(value) else None


def parse(text: str) -> object:
    """JSON as strictly as the standard has it: no NaN, no number too large, no key twice.

    Raises:
        CorruptFile: It is none.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"This is no readable JSON: {error}.") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table: dict[str, object] = {}
    for key, value in pairs:
        if key in table:
            raise ValueError(f"the key {key!r} occurs twice in one object")
        table[key] = value
    return table


def decode(kind: type[T], value: object, path: str = "$") -> T:
    """The dataclass that a JSON value describes.

    Args:
        kind: The dataclass.
        value: As `parse` gives it.
        path: Where the value stands, as a JSON path; for messages.

    Raises:
        CorruptFile: A field is missing, unknown, of another type or out of range; the message names
            its path.
    """
    table = _object(value, path)
    known: dict[str, tuple[Any, bool]] = _fields(cast("Hashable", kind))
    for name in table:
        if name not in known:
            raise _fault(_at(path, name), f"is unknown; allowed are {', '.join(known)}")
        if table[name] is None and not known[name][1]:
            raise _fault(_at(path, name), "is null; it must be left out")
    given = {
        name: _decode(hint, table[name], f"{path}.{name}")
        for name, (hint, _) in known.items()
        if name in table
    }
    missing = [name for name, (_, needed) in known.items() if needed and name not in given]
    if missing:
        raise _fault(f"{path}.{missing[0]}", "is missing")
    try:
        return kind(**given)
    except BadInput as error:
        raise _fault(path, f"is not valid: {error}") from error


@functools.cache
def _fields(kind: Hashable) -> dict[str, tuple[Any, bool]]:
    """For each field its type and whether JSON must have it."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        field.name: (hints[field.name], not field.metadata.get("omitted_if_none"))
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]
    }


def _decode(hint: Any, value: object, path: str) -> object:  # noqa: ANN401 - a type or a type form
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        inner = next(kind for kind in get_args(hint) if kind is not types.NoneType)
        return None if value is None else _decode(inner, value, path)
    if origin is Literal:
        if value not in get_args(hint) or type(value) is not type(get_args(hint)[0]):
            allowed = ", ".join(map(str, get_args(hint)))
            raise _fault(path, f"is {_short(value)}; allowed: {allowed}")
        return value
    if origin is Annotated:
        inner, within = get_args(hint)
        return _ranged(inner, within, value, path)
    if origin is tuple:
        return tuple(
            _decode(get_args(hint)[0], item, f"{path}[{place}]")
            for place, item in enumerate(_array(value, path))
        )
    if origin is not None:
        inner = get_args(hint)[1]
        return {
            _text(key, path): _decode(inner, item, _at(path, key))
            for key, item in _object(value, path).items()
        }
    plain = _PLAIN.get(hint)
    return decode(hint, value, path) if plain is None else plain(value, path)


def _ranged(inner: Any, within: Within, value: object, path: str) -> object:  # noqa: ANN401
    found = _decode(inner, value, path)
    if not within.holds(found):
        raise _fault(path, f"is {_short(value)}; it must be {within}")
    return found


def _object(value: object, path: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _fault(path, f"is {_short(value)}; expected an object")
    return value


def _array(value: object, path: str) -> list[object]:
    if not isinstance(value, list):
        raise _fault(path, f"is {_short(value)}; expected an array")
    return value


def _text(value: object, path: str) -> str:
    if not isinstance(value, str):
        raise _fault(path, f"is {_short(value)}; expected a string")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise _fault(path, "holds half of a surrogate pair, which is no text")
    return value


def _whole(value: object, path: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _fault(path, f"is {_short(value)}; expected a whole number")
    if abs(value) > 2**64:
        raise _fault(path, "is too large a whole number")
    return value


def _real(value: object, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _fault(path, f"is {_short(value)}; expected a number")
    number = float(value) if abs(value) < 1e308 else math.inf
    if math.isinf(number):
        raise _fault(path, "is too large a number")
    return number


def _truth(value: object, path: str) -> bool:
    if not isinstance(value, bool):
        raise _fault(path, f"is {_short(value)}; expected true or false")
    return value


def _anything(value: object, path: str) -> object:
    if isinstance(value, dict):
        return {_text(key, path): _anything(item, _at(path, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_anything(item, f"{path}[{place}]") for place, item in enumerate(value)]
    check: Callable[[object, str], object] | None = _PLAIN.get(type(value))
    return value if check is None else check(value, path)


_PLAIN: dict[type, Callable[[object, str], object]] = {
    str: _text,
    int: _whole,
    float: _real,
    bool: _truth,
    object: _anything,
}


def _at(path: str, key: str) -> str:
    """The path of a key, which may come from a stranger and hold anything."""
    if key.isascii() and key.isidentifier() and len(key) <= 40:
        return f"{path}.{key}"
    return f"{path}[{json.dumps(key[:40])}]"


def _short(value: object) -> str:
    names = {dict: "an object", list: "an array", type(None): "null"}
    if type(value) in names:
        return names[type(value)]
    words = json.dumps(value)
    return words if len(words) <= 40 else f"{words[:40]}..."


def _fault(path: str, what: str) -> CorruptFile:
    return CorruptFile(f"{path} {what}.")

"""Whether reader and published schema allow the same."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import jsonschema

from robustkit.errors import CorruptFile
from robustkit.report import Report, schema

Place = tuple[str | int, ...]
VALUES: tuple[object, ...] = (None, True, -2, -1, 0.5, 7, "text", [], [{}], {}, {"a": 1})
_CLASSES = {"corruptions": "CorruptionsReport", "unlearnable": "UnlearnableReport"}


def check_agreement(table: dict[str, Any], top: str) -> None:
    """Replace every value inside one field of a valid report by others.

    What the reader takes must fit the schema, and what it refuses must not, unless it is about
    the agreement of several values, of which a schema knows nothing.
    """
    kind = _CLASSES[table["scenario"]]
    definition = {"$ref": f"#/$defs/{kind}/properties/{top}", "$defs": schema()["$defs"]}
    validator = jsonschema.Draft202012Validator(definition)
    for path in _leaves(table[top], (top,)):
        for value in VALUES:
            found = _changed(table, path, value)
            fault = None
            try:
                Report.from_json(json.dumps(found))
            except CorruptFile as error:
                fault = str(error)
            if fault is None:
                assert validator.is_valid(found[top]), f"{path} = {value!r} is read"
            elif "is not valid" not in fault and path != ("scenario",):
                assert not validator.is_valid(found[top]), f"{path} = {value!r}: {fault}"


def _leaves(value: object, path: Place = ()) -> Iterator[Place]:
    if path:
        yield path
    for key, item in value.items() if isinstance(value, dict) else ():
        yield from _leaves(item, (*path, key))
    for item in value[:1] if isinstance(value, list) else ():
        yield from _leaves(item, (*path, 0))


def _changed(table: dict[str, Any], path: Place, value: object) -> dict[str, Any]:
    found = part = copy.deepcopy(table)
    for key in path[:-1]:
        part = part[key]  # type: ignore[index]
    part[path[-1]] = value  # type: ignore[index]
    return found

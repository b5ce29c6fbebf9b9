"""Reports as JSON: written in one stable order, read with every field checked."""

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from robustkit.errors import BadInput, CorruptFile, MissingFile
from robustkit.files import write_atomically
from robustkit.report.codec import decode, encode, parse
from robustkit.report.parts import (
    About,
    Control,
    Cost,
    DataFacts,
    Environment,
    Flag,
    Headline,
    ModelFacts,
    ThreatFacts,
)

FILE = "report.json"

# The class of each scenario's report.
_SCENARIOS = {
    "evasion": "robustkit.report.evasion:EvasionReport",
    "corruptions": "robustkit.report.corruptions:CorruptionsReport",
    "unlearnable": "robustkit.report.unlearnable:UnlearnableReport",
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """What every report holds; each scenario has its own subclass.

    Attributes:
        schema: Version of the format.
        robustkit: Version that wrote it.
        command: The command line that gives this report again; None if there was none.
        scenario: What was measured.
        threat: The adversary that was assumed.
        model: What was judged.
        data: On which examples.
        about: What the model's authors say of it.
        seed: Where all randomness started.
        environment: Where the run took place.
        verdict: The one number.
        controls: The same method where the answer is known.
        flags: Signs that the number may mislead.
        cost: What the run took.
        diagnostics: Guards, measurements behind the flags, references; any JSON values.
    """

    SCHEMA: ClassVar[int] = 1

    schema: Literal[1] = 1
    robustkit: str = field(default_factory=lambda: version("robustkit"))
    command: str | None
    scenario: str
    threat: ThreatFacts
    model: ModelFacts
    data: DataFacts
    about: About
    seed: int
    environment: Environment
    verdict: Headline
    controls: tuple[Control, ...]
    flags: tuple[Flag, ...]
    cost: Cost
    diagnostics: Mapping[str, object]

    def to_json(self) -> str:
        """The report as JSON: fields in the order of the class, one line per row of a table.

        Infinite numbers become null.

        Raises:
            BadInput: A field holds NaN, is out of its range, or is no plain value: what `from_json`
                would refuse is not written.
        """
        table = encode(self)
        try:
            decode(type(self), table)
        except CorruptFile as error:
            raise BadInput(f"This report cannot be written: {error}") from error
        parts = (f"{json.dumps(key)}: {_laid_out(value)}" for key, value in table.items())
        return "{\n" + ",\n".join(parts) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The report that `to_json` wrote, as the class of its scenario.

        Raises:
            CorruptFile: It is no report, or not a valid one; the message names the faulty field by
                its JSON path.
            BadInput: It comes from a newer version, or is of another scenario than this class.
        """
        table = parse(text)
        kind = _kind(table)
        if not issubclass(kind, cls):
            raise BadInput(
                f"This is a report of the kind {kind.__name__}; asked for was {cls.__name__}."
            )
        try:
            return decode(kind, table)
        except RecursionError as error:
            raise CorruptFile("This is no report: it is nested too deeply.") from error


def _kind(table: object) -> type[Any]:
    if not isinstance(table, dict) or not {"schema", "scenario"} <= table.keys():
        raise CorruptFile("This is no report of robustkit: schema and scenario are missing.")
    number, scenario = table["schema"], table["scenario"]
    if type(number) is int and number > Report.SCHEMA:
        raise BadInput(
            f"$.schema is {number}, and this version of robustkit reads up to {Report.SCHEMA}; "
            "upgrade it."
        )
    if not isinstance(scenario, str) or scenario not in _SCENARIOS:
        known = ", ".join(_SCENARIOS)
        raise CorruptFile(f"$.scenario is {str(scenario)[:40]!r}; this version knows: {known}.")
    module, _, name = _SCENARIOS[scenario].partition(":")
    kind: type[Any] = getattr(importlib.import_module(module), name)
    return kind


def _laid_out(value: Any) -> str:  # noqa: ANN401 - a JSON value
    """One line, but a line per row where rows make up a table."""
    if isinstance(value, list) and any(isinstance(row, dict) for row in value):
        return "[\n  " + ",\n  ".join(_line(row) for row in value) + "\n]"
    return _line(value)


def _line(value: Any) -> str:  # noqa: ANN401 - a JSON value
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def write(report: Report, directory: Path) -> Path:
    """Write `report.json` into a folder, whole or not at all, and return its path.

    Raises:
        BadInput: Writing there is not allowed, or the report holds no plain values.
        CannotWrite: The disk is full or failed.
    """
    path = directory / FILE
    write_atomically(path, report.to_json())
    return path


def read(path: Path) -> Report:
    """The report in a file, or in a folder's `report.json`.

    Raises:
        MissingFile: There is none.
        CorruptFile: It is no valid report; the message names the faulty field by its JSON path.
        BadInput: It cannot be opened, or comes from a newer version.
    """
    file = path / FILE if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MissingFile(f"There is no report {str(file)!r}. Check the path.") from None
    except UnicodeDecodeError as error:
        raise CorruptFile(f"{str(file)!r} is no report: {error}.") from error
    except OSError as error:
        raise BadInput(f"{str(file)!r} cannot be read: {error.strerror}.") from error
    try:
        return Report.from_json(text)
    except BadInput as error:
        raise type(error)(f"{str(file)!r}: {error}") from error


def schema() -> dict[str, Any]:
    """The published JSON Schema of reports (draft 2020-12)."""
    text = files("robustkit.report").joinpath("schema.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table

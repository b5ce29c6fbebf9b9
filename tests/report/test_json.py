"""Reports as JSON: what is written is read back, and nothing else is."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from robustkit.errors import BadInput, CorruptFile, MissingFile
from robustkit.report import (
    EvasionReport,
    PerturbationFacts,
    Report,
    ThreatFacts,
    read,
    read_about,
    schema,
    write,
)
from robustkit.threat_models import Backdoor, Budget, LpBall, Patch, Targeted, ThreatModel
from tests.report.examples import evasion, full, hostile

REPORTS = pytest.mark.parametrize("make", [evasion, full, hostile])
Path_ = tuple[str | int, ...]


def table(make: Callable[[], Report] = full) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(make().to_json())
    return loaded


def leaves(value: object, path: Path_ = ()) -> Iterator[Path_]:
    """The path of every value inside a JSON value."""
    if path:
        yield path
    for key, item in value.items() if isinstance(value, dict) else ():
        yield from leaves(item, (*path, key))
    # The first row stands for all.
    for item in value[:1] if isinstance(value, list) else ():
        yield from leaves(item, (*path, 0))


def refusal(found: dict[str, Any]) -> str | None:
    """What the reader has against a report, if anything."""
    try:
        Report.from_json(json.dumps(found))
    except CorruptFile as error:
        return str(error)
    return None


def changed(path: Path_, value: object) -> dict[str, Any]:
    """The full report with one value replaced."""
    found = part = table()
    for key in path[:-1]:
        part = part[key]  # type: ignore[index]
    part[path[-1]] = value  # type: ignore[index]
    return found


@REPORTS
def test_what_is_written_is_read_back(make: Callable[[], EvasionReport]) -> None:
    report = make()
    assert EvasionReport.from_json(report.to_json()) == report
    assert Report.from_json(report.to_json()).to_json() == report.to_json()


@REPORTS
def test_every_report_fits_the_schema(make: Callable[[], EvasionReport]) -> None:
    jsonschema.validate(table(make), schema())


def test_the_fields_stand_in_the_promised_order() -> None:
    assert list(table()) == [
        *("schema", "robustkit", "command", "scenario", "threat", "model", "data", "about"),
        *("seed", "environment", "verdict", "controls", "flags", "cost", "diagnostics"),
        *("clean_accuracy", "robust_accuracy", "accuracies", "violations", "attacks"),
        *("skipped", "draws", "curves", "examples"),
    ]
    assert list(table()["attacks"][0]) == [
        *("name", "options", "through", "examples_in", "broken", "violations"),
        *("forward", "backward", "queries", "seconds"),
    ]
    assert list(table()["examples"][0]) == [
        *("id", "label", "clean_label", "status", "attack", "distance", "queries")
    ]


def test_what_was_not_measured_is_null_or_absent() -> None:
    found = table(evasion)
    assert found["draws"] is None
    assert found["curves"] == {}
    assert found["accuracies"]["surrogate"] is None
    assert set(found["about"].values()) == {None}


def test_a_row_of_a_table_takes_one_line() -> None:
    lines = evasion().to_json().splitlines()
    rows = [line for line in lines if line.startswith('  {"id": ')]
    assert [json.loads(row.rstrip(","))["id"] for row in rows[-10:]] == list(range(10))


def test_an_infinite_number_is_null() -> None:
    report = evasion()
    allowed = replace(report.threat.perturbation, radius=math.inf)  # type: ignore[type-var]
    found = replace(report, threat=replace(report.threat, perturbation=allowed))
    assert table(lambda: found)["threat"]["perturbation"]["radius"] is None


@pytest.mark.parametrize(
    "part",
    [
        {"diagnostics": {"margin": math.nan}},
        {"diagnostics": {"margin": object()}},
        {"violations": -1},
        {"seed": 2**70},
        {"command": "\ud800"},
    ],
)
def test_what_could_not_be_read_is_not_written(part: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        replace(evasion(), **part).to_json()


class TestSchema:
    def test_is_a_schema(self) -> None:
        jsonschema.Draft202012Validator.check_schema(schema())

    def test_names_the_same_fields_as_the_dataclasses(self) -> None:
        """Type by type, along the references from the report down."""
        import robustkit.report as package
        from robustkit.statistics import Interval

        definitions = schema()["$defs"]
        for name, definition in definitions.items():
            intervals = ("Share", "Difference", "Ratio")
            kind = Interval if name in intervals else getattr(package, name)
            names = [field.name for field in fields(kind)]
            optional = [field.name for field in fields(kind) if "omitted_if_none" in field.metadata]
            assert list(definition["properties"]) == names
            assert definition["required"] == [name for name in names if name not in optional]
            assert definition["additionalProperties"] is False
        assert "Share" in definitions

    @pytest.mark.parametrize("top", [key for key in table() if key != "schema"])
    def test_allows_what_the_reader_allows_and_nothing_else(self, top: str) -> None:
        """Every value is replaced by others; only agreement among values is beyond a schema."""
        definition = {"$ref": f"#/$defs/EvasionReport/properties/{top}"}
        validator = jsonschema.Draft202012Validator({**definition, "$defs": schema()["$defs"]})
        for path in leaves(table()[top], (top,)):
            values: tuple[object, ...] = (
                None,
                True,
                -2,
                -1,
                0.5,
                7,
                "text",
                [],
                [{}],
                {},
                {"a": 1},
            )
            for value in values:
                found = changed(path, value)
                valid = validator.is_valid(found[top])
                fault = refusal(found)
                if fault is None:
                    assert valid, f"{path} = {value!r} is read"
                elif "is not valid" not in fault and path != ("scenario",):
                    assert not valid, f"{path} = {value!r}: {fault}"

    def test_is_shipped(self) -> None:
        import tomllib

        root = Path(__file__).parents[2]
        project = tomllib.loads((root / "pyproject.toml").read_text())
        shipped = project["tool"]["setuptools"]["package-data"]["robustkit.report"]
        folder = root / "robustkit" / "report"
        data = {path for pattern in shipped for path in folder.glob(pattern)}
        assert data == {path for path in folder.iterdir() if path.suffix not in ("", ".py")}


class TestReading:
    @pytest.mark.parametrize(
        ("path", "value", "message"),
        [
            (("attacks", 1, "broken"), "x", r'^\$\.attacks\[1\]\.broken is "x"; expected a whole'),
            (("attacks", 1, "broken"), 9, r"^\$\.attacks\[1\] is not valid: broken and violations"),
            (("attacks", 0, "seconds"), -1, r"\$\.attacks\[0\]\.seconds is -1; it must be 0 or"),
            (("attacks", 0, "through"), "magic", r"\$\.attacks\[0\] is not valid: through is 'mag"),
            (("examples", 3, "status"), "fine", r'\$\.examples\[3\]\.status is "fine"; allowed: r'),
            (("examples", 4, "attack"), None, r"\$\.examples\[4\] is not valid: the example is br"),
            (("examples", 4, "id"), 3, r"^\$ is not valid: two examples have the same id"),
            (("examples",), [], r"^\$ is not valid: the data has 10 examples"),
            (("clean_accuracy", "high"), 1.5, r"\$\.clean_accuracy is an object; it must be in"),
            (
                ("clean_accuracy", "low"),
                0.9,
                r"\$\.clean_accuracy is not valid: .* must lie in its",
            ),
            (("verdict", "value"), 0.99, r"\$\.verdict is not valid"),
            (("seed",), 1.0, r"\$\.seed is 1\.0; expected a whole number"),
            (("seed",), True, r"\$\.seed is true; expected a whole number"),
            (("seed",), 10**30, r"\$\.seed is too large"),
            (("cost", "seconds"), 10**400, r"\$\.cost\.seconds is too large a number"),
            (("cost",), None, r"\$\.cost is null; expected an object"),
            (("flags",), {}, r"\$\.flags is an object; expected an array"),
            (("schema",), "1", r'\$\.schema is "1"; allowed: 1'),
            (("schema",), True, r"\$\.schema is true"),
            (("scenario",), "magic", r"\$\.scenario is 'magic'; this version knows: evasion"),
            (("scenario",), ["evasion"], r"\$\.scenario is "),
            (("model", "spec"), "\ud800", r"\$\.model\.spec holds half of a surrogate pair"),
            (("diagnostics", "\ud800"), 1, r"surrogate pair"),
            (("environment", "\x1b[31m"), 1, r'\$\.environment\["\\u001b\[31m"\] is unknown'),
        ],
    )
    def test_a_fault_is_named_by_its_path(self, path: Path_, value: object, message: str) -> None:
        with pytest.raises(CorruptFile, match=message):
            Report.from_json(json.dumps(changed(path, value)))

    def test_every_field_is_needed(self) -> None:
        for path in leaves(table()):
            found = part = table()
            for key in path[:-1]:
                part = part[key]  # type: ignore[index]
            free = path[0] == "diagnostics" or {"options", "packages", "curves"} & set(path[:-1])
            if isinstance(path[-1], str) and not free:
                del part[path[-1]]
                with pytest.raises(CorruptFile, match="missing"):
                    Report.from_json(json.dumps(found))

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "null",
            "[]",
            "{}",
            '"report"',
            '{"schema": 1, "schema": 1}',
            '{"schema": NaN, "scenario": "evasion"}',
            '{"schema": 1, "scenario": "evasion"}',
            "[" * 100_000,
            '{"a":' * 100_000,
            "9" * 10_000,
        ],
    )
    def test_what_is_no_report(self, text: str) -> None:
        with pytest.raises(CorruptFile):
            Report.from_json(text)

    @pytest.mark.parametrize("depth", [900, 5000])
    def test_free_values_may_not_be_nested_without_end(self, depth: int) -> None:
        text = evasion().to_json()
        start = text.index('"diagnostics"')
        deep = '"diagnostics": {"a": ' + "[" * depth + "]" * depth + "},\n"
        hostile_text = text[:start] + deep + text[text.index('"clean_accuracy"') :]
        with pytest.raises(CorruptFile):
            Report.from_json(hostile_text)

    def test_numbers_too_large_for_a_float(self) -> None:
        text = evasion().to_json().replace('"seconds": 12.5', '"seconds": 1e999')
        with pytest.raises(CorruptFile, match=r"\$\.cost\.seconds is too large"):
            Report.from_json(text)

    def test_a_newer_report(self) -> None:
        with pytest.raises(BadInput, match="reads up to 1; upgrade"):
            Report.from_json(json.dumps(changed(("schema",), 2)))


class TestFiles:
    def test_a_report_in_a_folder(self, tmp_path: Path) -> None:
        report = full()
        path = write(report, tmp_path / "runs" / "one")
        assert path == tmp_path / "runs" / "one" / "report.json"
        assert read(path) == read(path.parent) == report

    def test_no_report(self, tmp_path: Path) -> None:
        with pytest.raises(MissingFile, match=r"report\.json"):
            read(tmp_path)

    @pytest.mark.parametrize("content", [b"\xff\xfe", b"{}", b"PK\x03\x04"])
    def test_another_file(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "report.json"
        path.write_bytes(content)
        with pytest.raises(CorruptFile, match=r"report\.json"):
            read(path)

    def test_about(self, tmp_path: Path) -> None:
        path = tmp_path / "about.toml"
        path.write_text('name = "Net"\nextra_data = true\n')
        about = read_about(path)
        assert (about.name, about.extra_data, about.paper) == ("Net", True, None)

    @pytest.mark.parametrize("text", ['nam = "x"', "extra_data = 1", "name = ", 'name = ["x"]'])
    def test_about_with_a_fault(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "about.toml"
        path.write_text(text)
        with pytest.raises(CorruptFile, match=r"about\.toml"):
            read_about(path)

    def test_about_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(MissingFile):
            read_about(tmp_path / "about.toml")


class TestThreatFacts:
    def test_of_a_ball(self) -> None:
        ball = LpBall(norm="l2", radius=0.5)
        threat = ThreatModel(
            name="t", goal=Targeted("second"), perturbation=ball, budget=Budget(queries=7)
        )
        assert ThreatFacts.of(threat) == ThreatFacts(
            name="t",
            stage="inference",
            goal="targeted:second",
            access="gradient",
            perturbation=PerturbationFacts(norm="l2", radius=0.5, low=0.0, high=1.0, options={}),
            queries=7,
            poison_rate=None,
            may_relabel=False,
        )

    def test_of_a_patch_and_of_no_change(self) -> None:
        patch = ThreatFacts.of(ThreatModel(name="p", perturbation=Patch(height=2, width=3)))
        assert patch.perturbation is not None
        assert patch.perturbation.options == {"height": 2, "width": 3}
        assert patch.perturbation.radius == 6
        backdoor = ThreatFacts.of(ThreatModel(name="b", goal=Backdoor(3)))
        assert (backdoor.goal, backdoor.perturbation) == ("backdoor:3", None)

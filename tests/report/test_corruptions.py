"""Reports of common corruptions: what is written is read back and fits the schema; the page."""

import io
import json
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
import torch
from rich.console import Console

from robustkit.errors import BadInput
from robustkit.report import (
    Corrupted,
    CorruptedExample,
    CorruptionRow,
    CorruptionsReport,
    EvasionReport,
    MeanCorruptionError,
    Report,
    render,
    schema,
    show,
)
from robustkit.statistics import wilson
from tests.report.agreement import check_agreement
from tests.report.examples import HOSTILE, evasion


def made(*, name: str = "fog") -> CorruptionsReport:
    """Ten images, two corruptions, and a reference that makes twice the errors."""
    base = evasion()
    correct = (10, 8, 6, 4, 2)
    rows = tuple(
        CorruptionRow(
            name=title,
            family=family,  # type: ignore[arg-type]
            severities=tuple(wilson(count, 10) for count in correct),
            mean=0.6,
            corruption_error=0.5,
        )
        for title, family in (("gaussian-noise", "noise"), (name, "weather"))
    )
    mean = wilson(6, 10)
    return CorruptionsReport(
        command=base.command,
        threat=replace(base.threat, name="corruptions", perturbation=None, access="decision"),
        model=base.model,
        data=base.data,
        about=base.about,
        seed=0,
        environment=base.environment,
        verdict=replace(
            base.verdict, metric="mean_accuracy", value=mean.value, low=mean.low, high=mean.high
        ),
        controls=(),
        flags=(),
        cost=base.cost,
        diagnostics={},
        clean_accuracy=wilson(10, 10),
        mean_accuracy=mean,
        parameters="cifar-c",
        grid=rows,
        mce=MeanCorruptionError(value=0.5, reference=base.model, reference_accuracy=0.2),
        examples=tuple(
            CorruptedExample(id=place, label=place, clean_label=place, correct=6)
            for place in range(10)
        ),
    )


def table() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(made().to_json())
    return loaded


def test_what_is_written_is_read_back() -> None:
    report = made()
    assert Report.from_json(report.to_json()) == report
    alone = replace(report, mce=None)
    assert CorruptionsReport.from_json(alone.to_json()) == alone
    jsonschema.validate(json.loads(alone.to_json()), schema())
    with pytest.raises(BadInput, match="CorruptionsReport; asked for was EvasionReport"):
        EvasionReport.from_json(report.to_json())


def test_the_fields_stand_in_the_promised_order() -> None:
    assert list(table()) == [
        *("schema", "robustkit", "command", "scenario", "threat", "model", "data", "about"),
        *("seed", "environment", "verdict", "controls", "flags", "cost", "diagnostics"),
        *("clean_accuracy", "mean_accuracy", "parameters", "grid", "mce", "examples"),
    ]


@pytest.mark.parametrize("top", [key for key in table() if key != "schema"])
def test_the_schema_allows_what_the_reader_allows_and_nothing_else(top: str) -> None:
    check_agreement(table(), top)


def test_the_table_holds_the_grid_and_survives_hostile_names() -> None:
    stream = io.StringIO()
    report = made(name=HOSTILE)
    show(report, Console(file=stream, width=100, color_system=None))
    text = stream.getvalue()
    assert "gaussian-noise 100.0 80.0 60.0 40.0 20.0 60.0 50.0 %" in " ".join(text.split())
    assert "mCE 50.0 %" in text
    assert "\x1b" not in text
    assert "\u202e" not in text


class TestPage:
    def test_shows_the_grid_as_a_picture(self) -> None:
        image = Corrupted(title="fog 3", answer="cat", label="dog", image=torch.rand(3, 8, 8))
        page = render(made(), corrupted=[image])
        assert page.count("<rect") == 2 * 6
        assert "<title>fog, severity 5: 20.0 %</title>" in page
        assert page.count("data:image/png;base64,") == 1
        assert 'class="bad">dog &rarr; cat</strong>' in page
        assert "A wrong answer is red" in page
        assert "Nobody attacks" in page
        assert "Attacks</h2>" not in page

    def test_escapes_everything(self) -> None:
        image = Corrupted(title=HOSTILE, answer=HOSTILE, label="dog", image=torch.rand(3, 8, 8))
        page = render(made(name=HOSTILE), corrupted=[image])
        assert "<script" not in page
        assert "{{ 7*7 }}" in page
        assert "\x1b" not in page
        assert "style=" not in page.split("</style>")[1]

    def test_has_no_reference_where_none_was_named(self) -> None:
        assert "Against a reference" in render(made())
        assert "Against a reference" not in render(replace(made(), mce=None))

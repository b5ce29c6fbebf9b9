"""Reports of unlearnable data: read back, in agreement with the schema, told and drawn."""

import io
import json
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from rich.console import Console

from robustkit.errors import BadInput
from robustkit.report import EvasionReport, Report, UnlearnableReport, render, schema, show
from robustkit.report.battery import points
from robustkit.report.evasion import Skipped
from robustkit.report.unlearnable import (
    BestLearner,
    Distortion,
    LearnerRow,
    PartialRow,
    Publication,
    Spread,
)
from robustkit.statistics import Interval, wilson
from tests.report.agreement import check_agreement
from tests.report.examples import HOSTILE, evasion


def row(name: str, right: int) -> LearnerRow:
    """Twenty images; a learner that has nineteen of them right when trained on the originals."""
    return LearnerRow(
        name=name,
        options={"reach": 2.0},
        last=wilson(right, 20),
        best=wilson(right // 2, 10),
        best_epochs=(3,),
        reference=wilson(19, 20),
        difference=Interval(right / 20 - 0.95, -1.0, 0.0),
        recovered=Interval(0.5, 0.25, 0.75),
        same_key=wilson(20, 20),
        permuted_key=wilson(1, 20),
        seeds=(right / 20,),
        forward=100,
        backward=50,
        seconds=1.5,
        cpu_seconds=1.25,
    )


def made(*, name: str = "coin") -> UnlearnableReport:
    """Plain training fails, and another learner does not."""
    base = evasion()
    spread = Spread(mean=12.0, q05=9.0, median=11.0, q95=19.0)
    verdict = wilson(7, 10)
    return UnlearnableReport(
        command=base.command,
        threat=replace(base.threat, name="unlearnable", stage="training", goal="availability"),
        model=replace(base.model, spec="cnn"),
        data=replace(base.data, n=20),
        about=base.about,
        seed=0,
        environment=base.environment,
        verdict=replace(
            base.verdict,
            metric="best_learner_accuracy",
            value=verdict.value,
            low=verdict.low,
            high=verdict.high,
            n=10,
            worse="higher",
        ),
        controls=(),
        flags=(),
        cost=base.cost,
        diagnostics={},
        publication=Publication(
            data=replace(base.data, spec=f"set of {name}"),
            originals=name,
            method="cuda",
            options={"p_b": 0.3},
            changed=1.0,
        ),
        distortion=Distortion(n=10, identical=0, psnr=spread, ssim=spread, linf=spread),
        best=BestLearner(
            learner=name,
            chosen=0.8,
            n=10,
            reference=wilson(9, 10),
            lost=Interval(0.2, -0.125, 0.5),
        ),
        learners=(row("erm", 8), row(name, 14)),
        skipped=(Skipped(name="grayscale", reason="the images have no colours to lose"),),
        partial=(
            PartialRow(
                published=0.8,
                mixed=wilson(16, 20),
                alone=wilson(17, 20),
                difference=Interval(-0.05, -0.25, 0.125),
            ),
            PartialRow(published=1.0, mixed=wilson(8, 20), alone=None, difference=None),
        ),
        epochs=10,
        seeds=1,
    )


def table() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(made().to_json())
    return loaded


def test_what_is_written_is_read_back() -> None:
    report = made()
    assert Report.from_json(report.to_json()) == report
    jsonschema.validate(table(), schema())
    bare = replace(
        report,
        learners=tuple(
            replace(one, recovered=None, same_key=None, permuted_key=None)
            for one in report.learners
        ),
        distortion=Distortion(n=0, identical=20, psnr=None, ssim=None, linf=None),
        partial=(),
        skipped=(),
    )
    assert UnlearnableReport.from_json(bare.to_json()) == bare
    jsonschema.validate(json.loads(bare.to_json()), schema())
    with pytest.raises(BadInput, match="UnlearnableReport; asked for was EvasionReport"):
        EvasionReport.from_json(report.to_json())


def test_the_fields_stand_in_the_promised_order() -> None:
    assert list(table()) == [
        *("schema", "robustkit", "command", "scenario", "threat", "model", "data", "about"),
        *("seed", "environment", "verdict", "controls", "flags", "cost", "diagnostics"),
        *("publication", "distortion", "best", "learners", "skipped", "partial"),
        *("epochs", "seeds"),
    ]


@pytest.mark.parametrize("top", [key for key in table() if key != "schema"])
def test_the_schema_allows_what_the_reader_allows_and_nothing_else(top: str) -> None:
    check_agreement(table(), top)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"best": replace(made().best, n=9)}, "together that must be the 20"),
        ({"best": replace(made().best, learner="mixup")}, "must be among them"),
        ({"learners": made().learners[1:]}, "must be among them"),
        ({"learners": (*made().learners, made().learners[0])}, "a name of its own"),
        ({"seeds": 2}, "another number of seeds"),
    ],
)
def test_parts_about_different_things_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        replace(made(), **changes)


def printed(report: UnlearnableReport, width: int = 80) -> str:
    stream = io.StringIO()
    show(report, Console(file=stream, width=width, color_system=None))
    return stream.getvalue()


class TestTerminal:
    def test_says_it_all(self) -> None:
        text = " ".join(printed(made()).split())
        for words in (
            "Clean accuracy of the best learner 70.0 %",
            "Plain training (erm) 40.0 %",
            "The best learner is coin.",
            "chosen on 10 clean test images and scored on the 10 others",
            "erm 40.0 40.0 95.0 50.0 100.0 5.0 1.5 s",
            "coin 70.0 70.0 95.0 50.0 100.0 5.0 1.5 s",
            "80 % 80.0 85.0 -5.0 (-25.0 to +12.5)",
            "grayscale: the images have no colours to lose",
            "cuda (p_b=0.3)",
            "PSNR 12.0 dB",
        ):
            assert words in text

    def test_fits_a_narrow_terminal(self) -> None:
        long = made(name="adversarial-linf:16/255")
        text = printed(long)
        assert max(map(len, text.splitlines())) <= 80
        assert "adversarial-linf:16/255" in text

    def test_leaves_out_what_is_not_known(self) -> None:
        report = made()
        unkeyed = [replace(one, same_key=None, permuted_key=None) for one in report.learners]
        assert "Same key" not in printed(replace(report, learners=tuple(unkeyed)))

    def test_survives_hostile_names(self) -> None:
        text = printed(made(name=HOSTILE))
        assert "\x1b" not in text
        assert "\u202e" not in text


class TestPage:
    def test_draws_each_learner_beside_its_reference(self) -> None:
        page = render(made())
        assert page.count('class="bar"') == 2
        assert '<rect class="possible" width="95.00" height="12"/>' in page
        assert '<rect class="learnt" y="3" width="70.00" height="6"/>' in page
        assert "coin: 70.0 % from the published data, 95.0 % from the originals" in page
        assert 'class="chosen"' in page
        assert "Where a part only is published" in page
        assert "<title>set of coin: clean accuracy of the best learner 70.0 %</title>" in page
        assert "Attacks</h2>" not in page

    def test_escapes_everything(self) -> None:
        page = render(made(name=HOSTILE))
        assert "<script" not in page
        assert "{{ 7*7 }}" in page
        assert "\x1b" not in page
        assert "style=" not in page.split("</style>")[1]

    def test_has_no_section_on_parts_where_none_was_asked_for(self) -> None:
        assert "Where a part only" not in render(replace(made(), partial=()))


def test_differences_are_told_with_their_sign() -> None:
    assert points(Interval(0.125, -0.25, 0.5)) == "+12.5 (-25.0 to +50.0)"
    assert points(None) == ""

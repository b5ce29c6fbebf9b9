"""`robustkit evaluate --threat corruptions`."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from robustkit.cli import run
from robustkit.corruptions import NAMES
from robustkit.evaluation.corruptions_survey import Survey
from robustkit.report import schema
from tests.cli.conftest import Invoke


@pytest.fixture
def corruptions(victim: Path) -> str:
    """The words that ask the classifier of digits about corrupted ones."""
    return f"evaluate --threat corruptions --model {victim}:make --data digits --n 12"


def without_clock(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    del found["cost"]["seconds"], found["diagnostics"]["control and reference"]["seconds"]
    del found["command"]
    return found


def test_nothing_else_need_be_given(invoke: Invoke) -> None:
    """Two of the twenty images: all of them take a minute."""
    result = invoke("evaluate --threat corruptions --n 2 --json")
    assert result.code == 0
    report = json.loads(result.out)
    jsonschema.validate(report, schema())
    assert report["scenario"] == "corruptions"
    assert report["command"] == "robustkit evaluate --threat corruptions --n 2 --json"
    assert (report["model"]["spec"], report["data"]["spec"]) == (
        "builtin:cifar10-resnet18",
        "samples:cifar10",
    )
    assert report["clean_accuracy"]["value"] == 1
    assert 0.3 < report["mean_accuracy"]["value"] < 1
    assert report["verdict"]["metric"] == "mean_accuracy"
    assert [row["name"] for row in report["grid"]] == list(NAMES)
    assert report["controls"][0]["value"] == 1
    assert report["mce"] is None
    assert "robust_accuracy" not in report
    assert "corruptions: 152 of 152" in result.err


def test_the_table_says_it_all(corruptions: str, invoke: Invoke) -> None:
    result = invoke(corruptions)
    assert result.code == 0
    for words in (
        "Mean accuracy under corruption",
        "Clean accuracy",
        "Nobody attacks",
        "severity 0",
    ):
        assert words in result.out
    lines = {line.split()[0]: line.split()[1:] for line in result.out.splitlines() if line.strip()}
    for name in NAMES:
        *cells, mean = map(float, lines[name])
        assert len(cells) == 5
        assert mean == pytest.approx(sum(cells) / 5, abs=0.11)
    assert "mCE" not in result.out


def test_errors_are_compared_with_a_reference_only_where_one_is_named(
    corruptions: str, victim: Path, invoke: Invoke
) -> None:
    result = invoke(corruptions, "--reference-model", f"{victim}:make")
    assert result.code == 0
    assert "mCE" in result.out
    assert "Error/ref." in result.out
    report = json.loads(invoke(corruptions, "--json", "--reference-model", f"{victim}:make").out)
    jsonschema.validate(report, schema())
    assert report["mce"]["reference"]["spec"] == f"{victim}:make"


def test_a_run_that_was_interrupted_goes_on(
    corruptions: str, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = invoke(corruptions, "--json").out
    words = f"{corruptions} --json --out {tmp_path / 'run'}"
    ask, calls = Survey._answers, 0

    def stop(*arguments: Any) -> None:  # noqa: ANN401
        nonlocal calls
        calls += 1
        if calls == 30:
            raise KeyboardInterrupt
        ask(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Survey, "_answers", stop)
        result = invoke(words)
    assert result.code == 130
    assert "--resume" in result.err
    assert len((tmp_path / "run" / "records.jsonl").read_bytes().splitlines()) == 29
    refused = invoke(words)
    assert refused.code == 2
    assert "Add --resume" in refused.err
    result = invoke(words, "--resume")
    assert result.code == 0
    assert without_clock(result.out) == without_clock(whole)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        *("run.json", "records.jsonl", "points.bin", "report.json", "report.html")
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--eps 8/255", "--eps cannot be combined"),
        ("--access score --goal targeted", "--access, --goal cannot be combined"),
        ("--attacks pgd", "nobody attacks"),
        ("--options pgd.steps=1", "--options cannot be combined"),
        ("--queries 0", "--queries cannot be combined"),
        ("--reference-model resnet-18", "an architecture without weights"),
        ("--reference-model builtin:cifar10-resnet", "Did you mean builtin:cifar10-resnet18"),
        ("--reference-model builtin:cifar10-resnet18", "The model cannot take images"),
        ("--resume", "--resume needs --out"),
        ("--n 0", "0 images were asked for"),
        ("--batch-size 0", "batch size is 0"),
        ("--device cuda:99", "is not there"),
    ],
)
def test_bad_input_is_told(corruptions: str, words: str, said: str, invoke: Invoke) -> None:
    result = invoke(f"{corruptions} {words}")
    assert result.code == 2
    assert said in result.err
    assert "Traceback" not in result.err
    assert not result.out


def test_a_reference_model_belongs_to_this_threat(invoke: Invoke) -> None:
    result = invoke("evaluate --threat linf --reference-model cnn")
    assert result.code == 2
    assert "--reference-model belongs to --threat corruptions" in result.err


def test_near_names_are_offered(invoke: Invoke) -> None:
    result = invoke("evaluate --threat corruption")
    assert result.code == 2
    assert "Did you mean corruptions" in result.err


def test_it_is_listed_and_shown(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "threats"]) == 0
    assert "corruptions" in capfd.readouterr().out
    assert run(["show", "corruptions"]) == 0
    assert "Nobody attacks" in capfd.readouterr().out

"""`robustkit unlearn audit` and `robustkit evaluate --threat unlearnable`."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from robustkit.cli import run
from robustkit.evaluation import unlearnable
from robustkit.report import schema
from tests.cli.conftest import Invoke
from tests.cli.processes import end


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a published set of 200 digits and its key."""
    folder = tmp_path_factory.mktemp("set")
    words = "unlearn make --method cuda --data digits --n 200"
    assert (
        run([*words.split(), "--key-file", str(folder / "key"), "--out", str(folder / "set")]) == 0
    )
    return folder


@pytest.fixture
def audit(made: Path) -> str:
    """The words of an audit that takes moments."""
    return (
        f"unlearn audit {made / 'set'} --learners erm,jpeg --model resnet-8 --epochs 1 --device cpu"
    )


def without_clock(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    del found["cost"]["seconds"], found["command"]
    for row in found["learners"]:
        del row["seconds"], row["cpu_seconds"]
    return found


def test_a_set_that_was_made_is_audited(audit: str, made: Path, invoke: Invoke) -> None:
    result = invoke(f"{audit} --key-file {made / 'key'} --fractions 50 --json")
    assert result.code == 0
    report = json.loads(result.out)
    jsonschema.validate(report, schema())
    assert report["scenario"] == "unlearnable"
    assert report["command"].startswith("robustkit unlearn audit")
    assert [row["name"] for row in report["learners"]] == ["erm", "jpeg"]
    assert report["learners"][0]["same_key"] is not None
    assert report["partial"][0]["published"] == 0.5
    assert report["publication"]["method"] == "cuda"
    assert report["publication"]["originals"] == "digits"
    assert report["publication"]["data"]["n"] == 200
    assert report["data"]["n"] == 360
    assert "key" not in report["publication"]["options"]
    assert (made / "key").read_text().split(":")[1].strip() not in result.out + result.err
    assert "1/7 erm on published data" in result.err


def test_the_table_says_it_all(audit: str, invoke: Invoke) -> None:
    result = invoke(audit)
    assert result.code == 0
    for words in (
        "Clean accuracy of the best learner",
        "The best learner is",
        "no-key",
        "Recovered",
    ):
        assert words in result.out
    assert "Same key" not in result.out


def test_evaluate_runs_the_same_audit(made: Path, invoke: Invoke, tmp_path: Path) -> None:
    """With the battery cut short: all of it takes minutes."""
    words = f"evaluate --threat unlearnable --data {made / 'set'} --model resnet-8 --n 100"
    result = invoke(f"{words} --eps 0.1 --split test --attacks pgd")
    assert result.code == 2
    assert "--eps, --split, --attacks cannot be combined with --threat unlearnable" in result.err
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unlearnable, "BATTERY", ("erm", "grayscale"))
        patch.setattr(unlearnable, "TRAINER", replace(unlearnable.TRAINER, epochs=1))
        result = invoke(f"{words} --device cpu --out {tmp_path / 'out'} --json")
    assert result.code == 0
    report = json.loads(result.out)
    assert report["scenario"] == "unlearnable"
    assert report["model"]["spec"] == "resnet-8"
    assert report["publication"]["data"]["n"] == 100
    assert [row["name"] for row in report["skipped"]] == ["grayscale"]
    assert (tmp_path / "out" / "report.html").exists()


def test_a_killed_audit_goes_on_with_what_is_finished(
    audit: str, invoke: Invoke, tmp_path: Path
) -> None:
    whole = invoke(f"{audit} --json").out
    words = [*audit.split(), "--json", "--out", str(tmp_path / "run")]
    ended = end(words, tmp_path / "process", how="training", at=3, signal=signal.SIGKILL)
    assert ended.code == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "trainings").iterdir()}
    assert len(kept) == 2
    assert all(path.suffix == ".json" for path in kept)
    refused = invoke(" ".join(words))
    assert refused.code == 2
    assert "Add --resume" in refused.err
    result = invoke(" ".join([*words, "--resume"]))
    assert result.code == 0
    assert without_clock(result.out) == without_clock(whole)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        *("run.json", "trainings", "report.json", "report.html")
    }


def test_an_interrupted_audit_says_how_it_goes_on(audit: str, tmp_path: Path) -> None:
    words = [*audit.split(), "--out", str(tmp_path / "run")]
    ended = end(words, tmp_path / "process", how="training", at=2, signal=signal.SIGINT)
    assert ended.code == 130
    assert "--resume" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("unlearn audit", "Give the published set once"),
        ("unlearn audit {set} --data {set}", "Give the published set once"),
        ("unlearn audit {set} --resume", "--resume needs --out"),
        ("unlearn audit {set} --learners colin", "Did you mean coin"),
        ("unlearn audit {set} --learners grayscale", "no colours to lose"),
        ("unlearn audit {set} --fractions some", "write per cent with commas"),
        ("unlearn audit {set} --fractions 0", "above 0 and up to 100"),
        ("unlearn audit {set} --seeds 0", "at least 1"),
        ("unlearn audit {set} --epochs 0", "at least 1"),
        ("unlearn audit {set} --n 0", "0 images were asked for"),
        ("unlearn audit {set} --model builtin:cifar10-resnet18", "begin anew"),
        ("unlearn audit {set} --recipe kone", "No recipe is called"),
        ("unlearn audit {set} --device cuda:99", "is not there"),
        ("unlearn audit {set} --clean samples:mnist", "is called 'train'"),
        ("unlearn audit {set} --clean fashion-mnis", "Did you mean fashion-mnist"),
        ("unlearn audit {set} --key-file none.key", "none.key"),
        ("unlearn audit {set} --key-file {other}", "was given"),
        ("unlearn audit digits", "does not say what it was made from"),
        ("unlearn audit digits --clean digits --key-file {other}", "leave --key-file out"),
        ("evaluate --threat unlearnable", "needs --data DIR"),
        ("evaluate --threat unlearnable --data digits --dtype bf16", "--dtype cannot be combined"),
        ("evaluate --threat unlearnable-linf --data digits", "does not say what"),
    ],
)
def test_bad_input_is_told(
    words: str, said: str, made: Path, invoke: Invoke, tmp_path: Path
) -> None:
    other = tmp_path / "other.key"
    other.write_text(f"robustkit-key-1:{os.urandom(32).hex()}\n")
    other.chmod(0o600)
    result = invoke(words.format(set=made / "set", other=other))
    assert result.code == 2
    assert said in result.err
    assert "Traceback" not in result.err
    assert not result.out


def test_learners_are_listed_and_shown(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "learners"]) == 0
    assert "key-leak" in capfd.readouterr().out
    assert run(["show", "coin"]) == 0
    shown = capfd.readouterr().out
    assert "coin.reach=2.0" in shown
    assert "Differs from the reference" in shown

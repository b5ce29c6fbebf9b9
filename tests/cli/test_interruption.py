"""Runs that are killed, interrupted, or meet a full disk; and how they go on."""

import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from robustkit.report import EvasionReport, read
from tests.cli.conftest import Invoke
from tests.cli.processes import end
from tests.evaluation.victims import outcome

OPTIONS = "--n 24 --batch-size 6 --attacks fgsm,pgd --options pgd.steps=8,pgd.restarts=2"


def report_of(folder: Path) -> EvasionReport:
    found = read(folder / "report.json")
    assert isinstance(found, EvasionReport)
    return found


@pytest.fixture
def words(digits: str, tmp_path: Path) -> list[str]:
    return shlex.split(f"{digits} {OPTIONS} --out {tmp_path / 'run'}")


@pytest.fixture
def expected(digits: str, tmp_path: Path, invoke: Invoke) -> EvasionReport:
    """The report of the run that nobody interrupts."""
    folder = tmp_path / "whole"
    assert invoke(f"{digits} {OPTIONS} --out {folder}").code == 0
    report = report_of(folder)
    assert 0.3 < report.robust_accuracy.value < 0.8
    assert all(row.broken for row in report.attacks)
    return report


@pytest.mark.parametrize(
    ("how", "at"),
    [
        *(("asked", at) for at in (4, 9, 14, 22)),  # in the guards, the clean pass, the attacks
        *(("attack", at) for at in (1, 2)),
        *(("record", at) for at in (1, 3, 6, 9)),
        *(("points", at) for at in (1, 3)),
    ],
)
def test_a_killed_run_goes_on_as_if_nothing_had_been(
    how: str,
    at: int,
    words: list[str],
    expected: EvasionReport,
    invoke: Invoke,
    tmp_path: Path,
) -> None:
    ended = end(words, tmp_path / "killed", how=how, at=at, signal=signal.SIGKILL)
    assert ended.code == -signal.SIGKILL, ended.err
    assert not (tmp_path / "run" / "report.json").exists()
    assert invoke("", *words, "--resume").code == 0
    assert outcome(report_of(tmp_path / "run")) == outcome(expected)


def test_a_run_killed_again_and_again_ends_at_the_same_report(
    words: list[str], expected: EvasionReport, invoke: Invoke, tmp_path: Path
) -> None:
    for number, (how, at) in enumerate((("record", 2), ("points", 2), ("asked", 12))):
        again = [*words, "--resume"] if number else words
        ended = end(again, tmp_path / "killed", how=how, at=at, signal=signal.SIGKILL)
        assert ended.code == -signal.SIGKILL, ended.err
    assert invoke("", *words, "--resume").code == 0
    assert outcome(report_of(tmp_path / "run")) == outcome(expected)


@pytest.mark.parametrize("at", [9, 20])
def test_an_interrupted_run_prints_the_command_that_goes_on(
    at: int, words: list[str], expected: EvasionReport, invoke: Invoke, tmp_path: Path
) -> None:
    ended = end(words, tmp_path / "stopped", how="asked", at=at, signal=signal.SIGINT)
    assert ended.code == 130
    assert ended.out == ""
    assert "Traceback" not in ended.err
    command = re.search(r"^  robustkit (.*)$", ended.err, re.MULTILINE)
    assert command is not None
    assert invoke(command[1]).code == 0
    assert outcome(report_of(tmp_path / "run")) == outcome(expected)


def test_an_interrupted_resume_prints_resume_once(words: list[str], tmp_path: Path) -> None:
    again = [*words, "--resume"]
    ended = end(again, tmp_path / "stopped", how="asked", at=9, signal=signal.SIGINT)
    assert ended.code == 130
    assert ended.err.count("--resume") == 1


def test_an_interrupted_run_without_a_folder_says_that_nothing_was_kept(
    words: list[str], tmp_path: Path
) -> None:
    ended = end(words[:-2], tmp_path / "stopped", how="asked", at=9, signal=signal.SIGINT)
    assert ended.code == 130
    assert "Nothing was kept; add --out DIR" in ended.err


@pytest.mark.parametrize("limit", [1200, 2500, 4096])
def test_a_full_disk_ends_a_run_that_can_be_resumed(
    limit: int, words: list[str], expected: EvasionReport, invoke: Invoke, tmp_path: Path
) -> None:
    ended = end(words, tmp_path / "full", how="disk", at=limit)
    assert ended.code == 4, ended.err
    assert "Traceback" not in ended.err
    assert "--resume" in ended.err
    assert invoke("", *words, "--resume").code == 0
    assert outcome(report_of(tmp_path / "run")) == outcome(expected)


def test_a_reader_that_has_gone_gets_no_traceback(words: list[str], tmp_path: Path) -> None:
    ended = end([*words, "--json"], tmp_path / "pipe", how="pipe")
    assert "Traceback" not in ended.err
    assert "Exception ignored" not in ended.err
    assert (tmp_path / "run" / "report.json").exists()


def test_a_real_command_killed_from_outside_goes_on(
    words: list[str], expected: EvasionReport, invoke: Invoke, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "robustkit", *words]
    records = tmp_path / "run" / "records.jsonl"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not (records.exists() and records.stat().st_size > 300):
            time.sleep(0.001)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert invoke("", *words, "--resume").code == 0
    assert outcome(report_of(tmp_path / "run")) == outcome(expected)

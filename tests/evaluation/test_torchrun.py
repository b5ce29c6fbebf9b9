"""Real processes that `torchrun` starts: one report, whatever becomes of one of them."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import save_file

from robustkit.cli import run as command
from robustkit.report import EvasionReport, read
from tests.evaluation.victims import robust_state, same

ROOT = Path(__file__).parents[2]
SLOW = pytest.mark.slow

FACTORY = """
import os
import signal
import time
from pathlib import Path

from safetensors.torch import load_file

from robustkit.models.cnn import CNN

calls = 0


def happen(*_):
    # What befalls the process named by LOSE; the other one is slow, so that it is still at work.
    global calls
    calls += 1
    if calls != 40 or "LOSE" not in os.environ:
        return
    if os.environ.get("RANK") != os.environ["LOSE"]:
        time.sleep(4)
    elif os.environ["WHOM"] == "worker":
        os.kill(os.getpid(), signal.SIGKILL)
    elif os.environ["WHOM"] == "watcher":
        os.kill(os.getppid(), signal.SIGKILL)
        # Not in one piece: a signal between the last instruction and the sleep would not end it.
        for _ in range(600):
            time.sleep(0.1)
    elif os.environ["WHOM"] == "device":
        raise RuntimeError("CUDA error: the device is lost")
    elif not Path(os.environ["WHOM"]).exists():
        Path(os.environ["WHOM"]).touch()
        os.kill(os.getpid(), signal.SIGKILL)


def make():
    model = CNN(classes=10, channels=1, width=8)
    model.load_state_dict(load_file(Path(__file__).with_name("victim.safetensors")))
    model.register_forward_pre_hook(happen)
    return model
"""
OPTIONS = "--data digits --eps 0.2 --batch-size 6 --attacks fgsm,pgd --options pgd.steps=12"


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("victim")
    save_file(robust_state(), folder / "victim.safetensors")
    (folder / "victim.py").write_text(FACTORY)
    return f"evaluate --model {folder / 'victim.py'}:make {OPTIONS} --n 40"


@pytest.fixture(scope="module")
def by_command(words: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EvasionReport]:
    """The folder of one process that a command started, and its report."""
    folder = tmp_path_factory.mktemp("command") / "out"
    assert command([*shlex.split(words), "--out", str(folder)]) == 0
    return folder, report_in(folder)


def report_in(folder: Path) -> EvasionReport:
    report = read(folder / "report.json")
    assert isinstance(report, EvasionReport)
    return report


def start(
    words: str, *, processes: int, options: str = "", **environment: str
) -> subprocess.Popen[str]:
    launch = f"-m torch.distributed.run --standalone --nproc-per-node {processes} {options} -m --"
    return subprocess.Popen(
        [sys.executable, *shlex.split(launch), "robustkit", *shlex.split(words)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@dataclass(frozen=True)
class Ended:
    """What became of several processes."""

    code: int
    out: str
    err: str


def torchrun(words: str, *, processes: int, options: str = "", **environment: str) -> Ended:
    """Several real processes. Output is complete when all have let go of it."""
    process = start(words, processes=processes, options=options, **environment)
    try:
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    return Ended(process.returncode, out, err)


def test_two_real_processes_report_once(
    words: str, by_command: tuple[Path, EvasionReport], tmp_path: Path
) -> None:
    ended = torchrun(f"{words} --out {tmp_path / 'out'} --json", processes=2)
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["scenario"] == "evasion"
    same(tmp_path / "out", report_in(tmp_path / "out"), by_command)


@pytest.mark.parametrize(
    ("whom", "after"), [("worker", 3), ("watcher", 1), pytest.param("device", 1, marks=SLOW)]
)
def test_the_others_finish_when_a_real_process_is_lost(
    whom: str,
    after: int,
    words: str,
    by_command: tuple[Path, EvasionReport],
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    ended = torchrun(f"{words} --out {out}", processes=2, LOSE="1", WHOM=whom)
    assert ended.code != 0
    assert ended.out == ""
    assert (out / "ranks" / "0-of-2" / "complete").exists(), ended.err
    assert not (out / "ranks" / "1-of-2" / "complete").exists()
    assert not (out / "report.json").exists()
    assert "The run is incomplete: of 2 processes, number 1" in ended.err
    assert re.search(r"^  robustkit evaluate .*--resume$", ended.err, re.MULTILINE)
    assert ("was lost: it was ended by SIGKILL" in ended.err) == (whom == "worker")
    if after == 1:
        assert command([*shlex.split(words), "--out", str(out), "--resume"]) == 0
    else:
        again = torchrun(f"{words} --out {out} --resume", processes=after)
        assert again.code == 0, again.err
        assert again.out.count("Robust accuracy") == 1
    same(out, report_in(out), by_command)


@pytest.mark.slow
def test_a_lost_process_is_replaced_where_torchrun_may(
    words: str, by_command: tuple[Path, EvasionReport], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    once = tmp_path / "once"
    ended = torchrun(
        f"{words} --out {out}", processes=2, options="--max-restarts 1", LOSE="1", WHOM=str(once)
    )
    assert ended.code == 0, ended.err
    same(out, report_in(out), by_command)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_all_stop_when_torchrun_is_told_to(
    number: int, words: str, by_command: tuple[Path, EvasionReport], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    # Nobody is lost; all are slow.
    process = start(f"{words} --out {out}", processes=2, LOSE="nobody")
    records = [out / "ranks" / f"{rank}-of-2" / "records.jsonl" for rank in range(2)]
    while process.poll() is None and not all(path.exists() for path in records):
        time.sleep(0.01)
    process.send_signal(number)
    printed, told = process.communicate(timeout=100)
    assert process.returncode != 0
    assert printed == ""
    assert told.count("Interrupted. What was found is kept.") == 1
    assert not list(out.glob("ranks/*/complete"))
    assert command([*shlex.split(words), "--out", str(out), "--resume"]) == 0
    same(out, report_in(out), by_command)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("", "processes need --out"),
        pytest.param("--out {} --attacks pgdd", "pgdd", marks=SLOW),
        pytest.param("--plam fast", "--plam", marks=SLOW),
    ],
)
def test_wrong_arguments_give_one_message(
    wrong: str, message: str, words: str, tmp_path: Path
) -> None:
    wrong = wrong.format(tmp_path / "out")
    ended = torchrun(words.partition(" --attacks")[0] + " " + wrong, processes=2)
    assert ended.code != 0
    assert ended.out == ""
    told = [line for line in ended.err.splitlines() if line.startswith("Error: ")]
    assert len(told) == 1, ended.err
    assert message in told[0]
    assert "exitcode  : 2" in ended.err
    assert not (tmp_path / "out").exists()


def test_corruptions_are_refused(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    out = str(tmp_path / "out")
    assert command(["evaluate", "--threat", "corruptions", "--data", "digits", "--out", out]) == 2
    assert "runs in one process" in capfd.readouterr().err


@pytest.mark.parametrize("rank", ["", "two", "-1", "2"])
def test_a_place_that_is_none_is_refused(
    rank: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    assert command([*shlex.split(words), "--out", str(tmp_path / "out")]) == 2
    assert "Error: " in capfd.readouterr().err

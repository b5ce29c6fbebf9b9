"""Several processes that share an evaluation: the same verdicts, also when one of them is lost."""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from robustkit import evaluate
from robustkit.attacks import FGSM, PGD
from robustkit.cli import run as command
from robustkit.errors import BadInput
from robustkit.evaluation import OthersAtWork, Share, Unfinished
from robustkit.evaluation.records import Records
from robustkit.models.cnn import CNN
from robustkit.report import EvasionReport, read
from tests.evaluation.cheats import Neighbourly
from tests.evaluation.test_adaptive import Noisy
from tests.evaluation.victims import digits, outcome, robust_state, threat, victim

ROOT = Path(__file__).parents[2]
N, WIDTH = 30, 4
PLAN = [FGSM(), PGD(steps=6, restarts=2), Neighbourly(), PGD(steps=5, loss="margin")]
STOP = 14
SLOW = pytest.mark.slow


class Stopped(Exception):
    """Ends a process in the middle, as a lost device would."""


def work(
    model: torch.nn.Module,
    out: Path | None,
    share: Share | None = None,
    *,
    resume: bool = False,
    **changes: Any,  # noqa: ANN401
) -> EvasionReport:
    arguments: dict[str, Any] = {
        "data": digits(N),
        "threat": threat(),
        "attacks": PLAN,
        "batch_size": WIDTH,
        **changes,
    }
    return evaluate(model, out=out, share=share, resume=resume, **arguments)


def shares(world: int) -> list[Share]:
    return [Share(rank=rank, world=world) for rank in range(world)]


def lost(out: Path, share: Share, *, at: int = STOP, resume: bool = False) -> None:
    """Run a share until it asks the model for the `at`-th time."""
    calls = 0

    def stop(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise Stopped

    model = victim()
    model.register_forward_pre_hook(stop)
    with pytest.raises(Stopped):
        work(model, out, share, resume=resume)


def finished(model: CNN, out: Path, world: int, *, resume: bool = False) -> EvasionReport:
    """What the last of several processes reports, that run one after the other.

    When the others are done already, the first one is the last.
    """
    reports: list[EvasionReport] = []
    for share in shares(world):
        assert not (out / "report.json").exists() or reports
        with contextlib.suppress(OthersAtWork):
            reports.append(work(model, out, share, resume=resume))
    (report,) = reports
    return report


def broken(folder: Path) -> dict[int, torch.Tensor]:
    found = load_file(folder / "examples.safetensors")
    return dict(zip(found["ids"].tolist(), found["inputs"], strict=True))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EvasionReport]:
    """The folder of one process, and its report."""
    folder = tmp_path_factory.mktemp("alone") / "out"
    report = work(victim(), folder)
    assert 0 < report.robust_accuracy.value < report.clean_accuracy.value
    assert sum(row.broken > 0 for row in report.attacks) >= 2
    return folder, report


def same(folder: Path, report: EvasionReport, alone: tuple[Path, EvasionReport]) -> None:
    """The same verdicts, passes and images as one process gives, and nothing left lying about."""
    assert outcome(report) == outcome(alone[1])
    written = read(folder / "report.json")
    assert isinstance(written, EvasionReport)
    assert outcome(written) == outcome(alone[1])
    images, expected = broken(folder), broken(alone[0])
    assert images.keys() == expected.keys()
    assert all(torch.equal(images[id_], expected[id_]) for id_ in images)
    assert {path.name for path in folder.iterdir()} == {path.name for path in alone[0].iterdir()}


@pytest.mark.parametrize("world", [2, 3, 5, N + 2])
def test_every_example_is_in_one_share(world: int) -> None:
    rows = [share.rows(N).tolist() for share in shares(world)]
    assert sorted(row for part in rows for row in part) == list(range(N))
    assert max(map(len, rows)) - min(map(len, rows)) <= 1
    assert all(part == sorted(part) for part in rows)
    assert rows[0] != list(range(0, N, world))


@pytest.mark.parametrize(("rank", "world"), [(2, 2), (-1, 2), (0, 0)])
def test_a_share_that_does_not_exist_is_refused(rank: int, world: int) -> None:
    with pytest.raises(BadInput, match="no process"):
        Share(rank=rank, world=world)


@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_find_what_one_finds(
    world: int, alone: tuple[Path, EvasionReport], model: CNN, tmp_path: Path
) -> None:
    same(tmp_path / "out", finished(model, tmp_path / "out", world), alone)


def test_a_process_does_its_share_and_nothing_else(model: CNN, tmp_path: Path) -> None:
    share = shares(3)[1]
    with pytest.raises(OthersAtWork, match="2 of 3 are not"):
        work(model, tmp_path, share)
    lines = (tmp_path / "ranks" / "1-of-3" / "records.jsonl").read_text().splitlines()
    groups = [json.loads(line) for line in lines]
    clean = [row for group in groups if group["stage"] == -1 for row in group["rows"]]
    assert sorted(clean) == share.rows(N).tolist()
    assert {row for group in groups for row in group["rows"]} == set(clean)
    # The third attack depends on who shares a batch: it and what follows wait for the last process.
    assert {group["stage"] for group in groups} == {-1, 0, 1}


def test_a_random_model_is_shared_too(tmp_path: Path) -> None:
    few: dict[str, Any] = {"data": digits(8), "attacks": [FGSM(), PGD(steps=3)]}
    report = work(Noisy(), tmp_path / "alone", **few)
    with pytest.raises(OthersAtWork):
        work(Noisy(), tmp_path / "out", shares(2)[0], **few)
    assert outcome(work(Noisy(), tmp_path / "out", shares(2)[1], **few)) == outcome(report)


def test_there_may_be_more_processes_than_examples(model: CNN, tmp_path: Path) -> None:
    report = work(model, None, data=digits(3))
    several = tmp_path / "several"
    for share in shares(5)[:-1]:
        with pytest.raises(OthersAtWork):
            work(model, several, share, data=digits(3))
    assert outcome(work(model, several, shares(5)[-1], data=digits(3))) == outcome(report)


@pytest.mark.parametrize("at", [9, STOP, 20])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_lost_process_is_made_up_for(
    at: int, after: int, alone: tuple[Path, EvasionReport], model: CNN, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first, second = shares(2)
    lost(out, first, at=at)
    with pytest.raises(Unfinished, match=r"incomplete.*number 0.*--resume"):
        work(model, out, second)
    assert not (out / "report.json").exists()
    report = (
        work(model, out, resume=True) if after == 1 else finished(model, out, after, resume=True)
    )
    same(out, report, alone)


def test_processes_may_be_lost_again_and_again(
    alone: tuple[Path, EvasionReport], model: CNN, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for share in shares(2):
        lost(out, share, at=12)
    for share in shares(3):
        lost(out, share, at=9, resume=True)
    for share in shares(2):
        lost(out, share, at=8, resume=True)
    same(out, finished(model, out, 3, resume=True), alone)


def test_one_process_is_gone_on_with_by_several(
    alone: tuple[Path, EvasionReport], model: CNN, tmp_path: Path
) -> None:
    out = shutil.copytree(alone[0], tmp_path / "out")
    lines = (out / "records.jsonl").read_bytes().splitlines(keepends=True)
    (out / "records.jsonl").write_bytes(b"".join(lines[:9]) + lines[9][:20])
    (out / "report.json").unlink()
    same(out, finished(model, out, 2, resume=True), alone)


@pytest.mark.parametrize("name", ["add", "keep"])
@pytest.mark.parametrize("call", [1, 8])
def test_taking_over_may_be_cut_off(
    name: str,
    call: int,
    alone: tuple[Path, EvasionReport],
    model: CNN,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    first, second = shares(2)
    with pytest.raises(OthersAtWork):
        work(model, out, first)
    lost(out, second, at=17)
    real, calls = getattr(Records, name), 0

    def cut(records: Records, *args: Any) -> Any:  # noqa: ANN401
        nonlocal calls
        calls += 1
        if calls == call:
            raise Stopped
        return real(records, *args)

    monkeypatch.setattr(Records, name, cut)
    with pytest.raises(Stopped):
        work(model, out, resume=True)
    monkeypatch.undo()
    same(out, finished(model, out, 2, resume=True), alone)


def test_a_finished_run_is_not_begun_again(
    alone: tuple[Path, EvasionReport], model: CNN, tmp_path: Path
) -> None:
    out = shutil.copytree(alone[0], tmp_path / "out")
    for share in shares(2):
        with pytest.raises(BadInput, match="Add --resume"):
            work(model, out, share)
    (out / "report.json").unlink()
    same(out, finished(model, out, 2, resume=True), alone)


@pytest.mark.parametrize("world", [2, 3])
def test_the_same_run_is_refused_without_resume(world: int, model: CNN, tmp_path: Path) -> None:
    lost(tmp_path, shares(2)[0])
    with pytest.raises(BadInput, match="Add --resume"):
        work(model, tmp_path, shares(world)[0])
    with pytest.raises(BadInput, match="Add --resume"):
        work(model, tmp_path)


def test_another_run_is_refused_and_left_alone(
    alone: tuple[Path, EvasionReport], model: CNN, tmp_path: Path
) -> None:
    out = shutil.copytree(alone[0], tmp_path / "out")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for resume in (False, True):
        with pytest.raises(BadInput, match="another run: it differs in seed"):
            work(model, out, shares(2)[0], seed=1, resume=resume)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_processes_need_a_folder(model: CNN) -> None:
    with pytest.raises(BadInput, match="folder"):
        work(model, None, shares(2)[0])


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

"""Several processes that share an evaluation: the same verdicts, also when one of them is lost."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from robustkit import evaluate
from robustkit.attacks import FGSM, PGD
from robustkit.errors import BadInput
from robustkit.evaluation import OthersAtWork, Share, Unfinished
from robustkit.evaluation.records import Records
from robustkit.models.cnn import CNN
from robustkit.report import EvasionReport
from tests.evaluation.cheats import Neighbourly
from tests.evaluation.misleading import Noisy
from tests.evaluation.victims import digits, outcome, same, threat, victim

N, WIDTH = 30, 4
PLAN = [FGSM(), PGD(steps=6, restarts=2), Neighbourly(), PGD(steps=5, loss="margin")]
STOP = 14


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


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EvasionReport]:
    """The folder of one process, and its report."""
    folder = tmp_path_factory.mktemp("alone") / "out"
    report = work(victim(), folder)
    assert 0 < report.robust_accuracy.value < report.clean_accuracy.value
    assert sum(row.broken > 0 for row in report.attacks) >= 2
    return folder, report


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

"""Resuming a run: from any point, to the same report; and never another one's."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustkit import evaluate
from robustkit.attacks import FGSM, PGD
from robustkit.data import LabelledImages
from robustkit.errors import BadInput, CannotWrite, CorruptFile
from robustkit.evaluation.records import Group, Records
from robustkit.models.cnn import CNN
from robustkit.report import EvasionReport, read
from robustkit.threat_models import ThreatModel, parse_goal
from tests.evaluation.cheats import Neighbourly, Walker
from tests.evaluation.victims import digits, network, outcome, threat

N, WIDTH = 24, 6
PLAN = [FGSM(), Neighbourly(), Walker(), PGD(steps=6, restarts=2)]
FILES = ("run.json", "records.jsonl", "points.bin")
ADVERSARY = ThreatModel(
    name="linf",
    goal=parse_goal("targeted:second"),
    perturbation=threat().with_radius(0.25).perturbation,
)


def run(model: CNN, out: Path | None, *, resume: bool = False, **changes: Any) -> EvasionReport:  # noqa: ANN401
    arguments: dict[str, Any] = {
        "data": digits(N),
        "threat": ADVERSARY,
        "attacks": PLAN,
        "batch_size": WIDTH,
        **changes,
    }
    return evaluate(model, out=out, resume=resume, **arguments)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EvasionReport]:
    """The folder of a run that nobody interrupted, and its report."""
    from tests.evaluation.victims import victim

    folder = tmp_path_factory.mktemp("run") / "out"
    report = run(victim(), folder)
    assert 0 < report.robust_accuracy.value < report.clean_accuracy.value
    assert sum(row.broken > 0 for row in report.attacks) >= 2
    return folder, report


def interrupted(finished: Path, folder: Path, *, at: int, lost_points: int = 0) -> Path:
    """A copy of a run that was killed when its records were `at` bytes long."""
    folder.mkdir()
    for name in FILES:
        shutil.copy(finished / name, folder / name)
    content = (folder / "records.jsonl").read_bytes()[:at]
    (folder / "records.jsonl").write_bytes(content)
    groups = [json.loads(line) for line in content.splitlines(keepends=True) if line[-1:] == b"\n"]
    places = [place for group in groups for place in group["points"] or [] if place is not None]
    size = (max(places, default=-1) + 1) * 64 * 4 + lost_points
    with (folder / "points.bin").open("r+b") as stream:
        stream.truncate(min(size, (finished / "points.bin").stat().st_size))
    return folder


def test_a_run_can_be_resumed_from_every_record_and_from_the_middle_of_each(
    finished: tuple[Path, EvasionReport], model: CNN, tmp_path: Path
) -> None:
    folder, expected = finished
    content = (folder / "records.jsonl").read_bytes()
    ends = [at + 1 for at, byte in enumerate(content) if byte == ord("\n")]
    assert len(ends) > 8
    points = _broken(folder)
    # A whole image whose line is missing, part of an image, and neither, in turn.
    lost = [0, 256, 100]
    middles = [end - (1, 40)[number % 2] for number, end in enumerate(ends)]
    cuts = [0, *ends, *middles]
    for number, cut in enumerate(cuts):
        copy = interrupted(folder, tmp_path / str(cut), at=cut, lost_points=lost[number % 3])
        if number % 4:
            # What the flags measure is measured once: elsewhere it is tested that this is so.
            shutil.copy(folder / "diagnostics.json", copy / "diagnostics.json")
        assert outcome(run(model, copy, resume=True)) == outcome(expected), cut
        again = _broken(copy)
        assert again.keys() == points.keys()
        assert all(torch.equal(again[id_], points[id_]) for id_ in points), cut
        # What was cut off is gone for good: the records can be read once more.
        if number % 4 == 1:
            assert outcome(run(model, copy, resume=True)) == outcome(expected), cut


def test_resuming_gives_the_same_artifacts(
    finished: tuple[Path, EvasionReport], model: CNN, tmp_path: Path
) -> None:
    folder, expected = finished
    copy = interrupted(folder, tmp_path / "copy", at=2200)
    run(model, copy, resume=True)
    written = read(copy / "report.json")
    assert isinstance(written, EvasionReport)
    assert outcome(written) == outcome(expected)
    whole = {name: _broken(folder)[name] for name in _broken(folder)}
    again = _broken(copy)
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[id_], again[id_]) for id_ in whole)


def _broken(folder: Path) -> dict[int, torch.Tensor]:
    from safetensors.torch import load_file

    found = load_file(folder / "examples.safetensors")
    assert list(found["inputs"].shape[1:]) == [1, 8, 8]
    return dict(zip(found["ids"].tolist(), found["inputs"], strict=True))


def test_broken_examples_are_kept_as_a_data_set(
    finished: tuple[Path, EvasionReport], model: CNN
) -> None:
    from robustkit import data

    folder, report = finished
    broken = [e for e in report.examples if e.status == "broken"]
    images = data.load(str(folder / "examples.safetensors"))
    assert len(images) == len(broken)
    assert sorted(_broken(folder)) == sorted(e.id for e in broken)
    with torch.no_grad():
        answers = model(images.inputs(slice(None))).argmax(1)
    assert bool((answers != images.labels).all())
    distances = {e.id: e.distance for e in broken}
    clean = digits(N)
    for id_, point in _broken(folder).items():
        distance = float((point - clean.inputs([id_])[0]).abs().max())
        assert distance == pytest.approx(distances[id_], abs=1e-6)


def test_a_complete_run_is_resumed_without_asking_an_attack(
    finished: tuple[Path, EvasionReport], model: CNN, tmp_path: Path
) -> None:
    folder, expected = finished
    copy = shutil.copytree(folder, tmp_path / "copy")
    before = (copy / "records.jsonl").read_bytes()
    (copy / "report.json").unlink()
    report = run(model, copy, resume=True)
    assert outcome(report) == outcome(expected)
    assert report.cost == expected.cost
    assert (copy / "records.jsonl").read_bytes() == before
    assert (copy / "report.json").exists()


def test_the_width_of_a_run_is_kept_when_none_is_given(
    finished: tuple[Path, EvasionReport], model: CNN, tmp_path: Path
) -> None:
    folder, expected = finished
    copy = interrupted(folder, tmp_path / "copy", at=2200)
    assert outcome(run(model, copy, resume=True, batch_size=None)) == outcome(expected)


OTHER: dict[str, dict[str, Any]] = {
    "data": {"data": digits(N + 1).take(slice(1, None))},
    "n": {"data": digits(N - 1)},
    "threat": {"threat": threat()},
    "attacks": {"attacks": [FGSM(), Walker()]},
    "seed": {"seed": 1},
    "batch size": {"batch_size": WIDTH + 1},
}


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("what", [*OTHER, "model", "order"])
def test_another_run_is_refused_and_said_what_differs(
    what: str, resume: bool, finished: tuple[Path, EvasionReport], model: CNN
) -> None:
    folder, _ = finished
    before = {name: (folder / name).read_bytes() for name in FILES}
    changes = OTHER.get(what, {})
    if what == "order":
        changes, what = {"data": digits(N).take(torch.arange(N).flip(0))}, "data"
    judged = network(seed=9) if what == "model" else model
    with pytest.raises(BadInput, match=rf"another run: it differs in .*{what}"):
        run(judged, folder, resume=resume, **changes)
    assert {name: (folder / name).read_bytes() for name in FILES} == before


@pytest.mark.parametrize("package", ["robustkit", "torch"])
def test_a_run_of_another_version_is_refused(
    package: str, finished: tuple[Path, EvasionReport], model: CNN, tmp_path: Path
) -> None:
    folder, _ = finished
    header = shutil.copytree(folder, tmp_path / "copy") / "run.json"
    found = json.loads(header.read_text())
    header.write_text(json.dumps({**found, f"{package} version": "0.1"}))
    with pytest.raises(BadInput, match=rf"differs in {package} version\. .* same .* versions as"):
        run(model, tmp_path / "copy", resume=True)


def test_the_same_run_is_refused_without_resume(
    finished: tuple[Path, EvasionReport], model: CNN
) -> None:
    folder, _ = finished
    before = {name: (folder / name).read_bytes() for name in FILES}
    with pytest.raises(BadInput, match="Add --resume"):
        run(model, folder)
    assert {name: (folder / name).read_bytes() for name in FILES} == before


def test_resume_in_an_empty_folder_begins(model: CNN, tmp_path: Path) -> None:
    report = run(model, tmp_path / "new" / "deep", resume=True)
    assert (tmp_path / "new" / "deep" / "report.json").exists()
    assert report.verdict.n == N


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\x00\xff", "[" * 10_000])
@pytest.mark.parametrize("width", [WIDTH, None])
def test_a_damaged_description_is_told(
    text: str, width: int | None, model: CNN, tmp_path: Path
) -> None:
    (tmp_path / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(CorruptFile, match="Choose another --out"):
        run(model, tmp_path, resume=True, batch_size=width)


def test_damage_that_no_interruption_does_is_told(
    finished: tuple[Path, EvasionReport], model: CNN, tmp_path: Path
) -> None:
    folder, _ = finished
    copy = shutil.copytree(folder, tmp_path / "line")
    lines = (copy / "records.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "records.jsonl").write_bytes(b"".join([lines[0], b"{}\n", *lines[1:]]))
    with pytest.raises(CorruptFile, match="line 2 is damaged"):
        run(model, copy, resume=True)
    copy = shutil.copytree(folder, tmp_path / "points")
    (copy / "points.bin").write_bytes(b"")
    with pytest.raises(CorruptFile, match="shorter than the records say"):
        run(model, copy, resume=True)
    copy = shutil.copytree(folder, tmp_path / "description")
    (copy / "run.json").unlink()
    with pytest.raises(CorruptFile, match=r"run.json, which says of what run, is gone"):
        run(model, copy, resume=True)


def test_two_processes_do_not_work_in_one_folder(model: CNN, tmp_path: Path) -> None:
    records = Records.begin(tmp_path, {"shape": [1, 8, 8]}, resume=False)
    try:
        with pytest.raises(BadInput, match="Another process is working in"):
            Records.begin(tmp_path, {"shape": [1, 8, 8]}, resume=True)
    finally:
        records.close()
    Records.begin(tmp_path, {"shape": [1, 8, 8]}, resume=True).close()


class Stopped(Exception):
    """Ends a run in the middle, as a lost device would."""


@pytest.mark.parametrize("method", ["add", "keep"])
@pytest.mark.parametrize("call", [1, 4, 6])
def test_a_full_disk_loses_nothing(
    method: str,
    call: int,
    finished: tuple[Path, EvasionReport],
    model: CNN,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import errno
    import os

    real, calls, name = os.fsync, 0, {"add": "records.jsonl", "keep": "points.bin"}[method]

    def full(file: int) -> None:
        nonlocal calls
        if Path(f"/proc/self/fd/{file}").readlink().name == name:
            calls += 1
            if calls >= call:
                # The last bytes did not reach the disk.
                os.truncate(file, os.fstat(file).st_size - 7)
                raise OSError(errno.ENOSPC, "No space left on device")
        real(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CannotWrite, match=r"disk is full.*--resume"):
        run(model, tmp_path / "out")
    monkeypatch.undo()
    assert outcome(run(model, tmp_path / "out", resume=True)) == outcome(finished[1])


@pytest.mark.parametrize("name", ["examples.safetensors", "report.html", "report.json"])
def test_a_full_disk_at_the_end_loses_nothing(
    name: str,
    finished: tuple[Path, EvasionReport],
    model: CNN,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import errno
    import os

    real = os.fsync

    def full(file: int) -> None:
        if name in Path(f"/proc/self/fd/{file}").readlink().name:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CannotWrite, match="No space left"):
        run(model, tmp_path / "out")
    monkeypatch.undo()
    assert not (tmp_path / "out" / "report.json").exists()
    assert outcome(run(model, tmp_path / "out", resume=True)) == outcome(finished[1])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *FILES,
        "diagnostics.json",
        "report.json",
        "report.html",
        "examples.safetensors",
    }


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        *((full, CannotWrite) for full in ("ENOSPC", "EDQUOT", "EIO")),
        *((unfit, BadInput) for unfit in ("EROFS", "EACCES", "ENAMETOOLONG")),
    ],
)
def test_a_folder_that_cannot_be_made_is_told(
    number: str,
    kind: type[Exception],
    model: CNN,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import errno
    import os

    def refuse(*args: object, **kwargs: object) -> None:
        code = getattr(errno, number)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(kind, match="out"):
        run(model, tmp_path / "out")


def test_groups_come_back_as_they_were(tmp_path: Path) -> None:
    identity = {"shape": [1, 2, 2]}
    groups = [
        Group(stage=-1, rows=[0, 1], labels=[3, -1], forward=2, rows_run=4, seconds=0.25),
        Group(
            stage=0,
            rows=[1],
            labels=[2],
            outcome=["broken"],
            distance=[0.1 + 0.2],
            queries=[None],
            points=[0],
            forward=3,
            backward=2,
            rows_run=8,
            seconds=1e-9,
        ),
    ]
    points = torch.arange(4.0).reshape(1, 1, 2, 2)
    records = Records.begin(tmp_path, identity, resume=False)
    records.add(groups[0])
    assert records.keep(points) == [0]
    records.add(groups[1])
    records.close()
    again = Records.begin(tmp_path, identity, resume=True)
    again.close()
    assert again.groups == groups
    assert again.stage(0) == groups[1:]
    assert np.array_equal(again.points(), points.numpy())


def test_without_a_folder_nothing_is_kept() -> None:
    records = Records.begin(None, {"shape": [1, 2, 2]}, resume=False)
    assert records.keep(torch.zeros(3, 1, 2, 2)) == [None] * 3
    assert records.points().shape == (0, 1, 2, 2)
    records.close()


def test_images_may_be_large_in_number_of_ids(model: CNN, tmp_path: Path) -> None:
    images: LabelledImages = digits(360).take(torch.tensor([350, 3, 200]))
    report = run(model, tmp_path / "out", data=images)
    assert [example.id for example in report.examples] == [350, 3, 200]
    assert set(_broken(tmp_path / "out")) <= {350, 3, 200}

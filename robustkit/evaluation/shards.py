"""One evaluation by several processes that do not talk to each other.

Each process attacks its share of the examples and records what it finds in a folder of its own,
`ranks/R-of-N` in the run's. Whichever ends last takes all records over into the run's own and goes
on as the one process of any other run, which finds nothing left to attack and reports. So does
`--resume`, with as many processes as one likes, when a process was lost.

A share does not change what is found: each example has its own random numbers, and whether an
attack is given it depends on nothing but what the attacks before found on it.
"""

import contextlib
import dataclasses
import itertools
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from robustkit.errors import BadInput, RobustkitError
from robustkit.evaluation.locks import held, turn
from robustkit.evaluation.plans import Line, Plan
from robustkit.evaluation.progress import Progress, Silent
from robustkit.evaluation.records import Group, Records, held_already, writing
from robustkit.files import write_atomically
from robustkit.randomness import Streams

_FOLDER = "ranks"
_LOCK = "lock"
_COMPLETE = "complete"
# Seconds between two looks at whether another process has ended.
_PATIENCE = 0.5
_TAKEN = "Another process has taken over all records, and reports."
_NOTHING = "Nothing was left to do for this process: the report is there."
_WAITING = "waiting for processes that still work in this folder"


class Unfinished(RobustkitError):
    """Examples of a process that was lost are missing, so that there is no report."""

    exit_code: ClassVar[int] = 4


class OthersAtWork(RobustkitError):
    """This process has done its share, and another one will report: nothing is wrong."""

    exit_code: ClassVar[int] = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """The examples that one of several processes answers for.

    Attributes:
        rank: Its number, from 0.
        world: How many processes there are.

    Raises:
        BadInput: There is no such process.
    """

    rank: int
    world: int

    def __post_init__(self) -> None:
        """Refuse a number that is not below `world`."""
        if not 0 <= self.rank < self.world:
            raise BadInput(f"There is no process {self.rank} of {self.world}: numbers start at 0.")

    def rows(self, count: int) -> Tensor:
        """(M,) positions among `count` examples, in order.

        They are dealt at random, the same way in every process, so that no share is harder than
        the others in data that are sorted.
        """
        dealt = Streams.of(seed=0, ids=torch.tensor([self.world]), purpose="shares")
        return dealt.permutation(count)[0][self.rank :: self.world].sort().values

    @property
    def name(self) -> str:
        """What its folder is called."""
        return f"{self.rank}-of-{self.world}"

    @property
    def others(self) -> list[str]:
        """What the folders of the other processes are called."""
        names = [replace(self, rank=rank).name for rank in range(self.world)]
        return [name for name in names if name != self.name]


class Watched:
    """Progress of one process among several: the first one tells how its own examples go on."""

    def __init__(self, progress: Progress, share: Share, count: int) -> None:
        """Args: who is told, about which share of how many examples."""
        self._progress = progress if share.rank == 0 else Silent()
        self._part = f"part {share.rank + 1} of {share.world}"
        self._elsewhere = count - len(share.rows(count))

    def stage(self, name: str, total: int, done: int) -> None:
        """A stage begins."""
        # All examples of the others count as finished there.
        without = self._elsewhere if name == "clean" else 0
        self._progress.stage(f"{name}, {self._part}", total - without, done - without)

    def advance(self, done: int, broken: int) -> None:
        """Examples have left the stage."""
        self._progress.advance(done, broken)


def shareable(lines: Plan) -> Sequence[Line]:
    """The attacks at the head of a plan whose results depend on no other example.

    What comes after them is left to the process that reports: it sees the same examples together
    as if it had been alone from the start. So is a reference, which may get a sample of all.
    """
    return list(itertools.takewhile(_alone, lines))


def _alone(line: Line) -> bool:
    return line.attack.order_free and line.role != "reference"


def begin(
    out: Path,
    identity: Mapping[str, Any],
    share: Share,
    count: int,
    *,
    resume: bool,
    progress: Progress,
) -> Records:
    """The records of one share, with all that is known about its examples already.

    What processes of earlier launches have left behind is taken over first; one that still works is
    waited for.

    Args:
        out: The run's folder.
        identity: What the run is.
        share: Which part.
        count: How many examples the run has.
        resume: Go on with what is there.
        progress: Who is told when this process waits.

    Raises:
        BadInput: As `Records.begin`, or the file system has no locks.
        CorruptFile: Likewise.
        CannotWrite: The disk is full.
    """
    Records.check(out, identity)
    with writing(out / _FOLDER):
        opened = _open(out, identity, share, resume=resume)
        if opened is None:
            progress.stage(_WAITING, 1, 0)
        while opened is None:
            time.sleep(_PATIENCE)
            opened = _open(out, identity, share, resume=resume)
    own, known = opened
    rows = share.rows(count)
    elsewhere = _elsewhere(rows, count)
    mine = set(rows.tolist())
    found = {_key(group) for group in own.groups}
    earlier = [_only(group, mine) for group in known]
    own.groups[:0] = [
        *elsewhere,
        *(group for group in earlier if group.rows and _key(group) not in found),
    ]
    return own


def _open(
    out: Path, identity: Mapping[str, Any], share: Share, *, resume: bool
) -> tuple[Records, list[Group]] | None:
    """The share's own records, and what the run has recorded before; None if it must wait."""
    folder = out / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(turn(folder / _LOCK))
        except FileNotFoundError:
            # Somebody has just left the folder as the last one.
            return None
        left = _left(folder, share)
        # Whether another one of as many processes was lost just now or long ago cannot be told.
        if not resume and any(part.name not in share.others for part in left):
            raise held_already(out)
        if resume and any(_at_work(part) for part in left):
            return None
        with contextlib.closing(Records.begin(out, identity, resume=True)) as base:
            if base.groups and not resume:
                raise held_already(out)
            base.forget_unasked()
            for part in left if resume else ():
                _take_over(base, part)
        return Records.begin(folder / share.name, identity, resume=True), base.groups


def finish(out: Path, own: Records, share: Share) -> None:
    """Close the records of a share that is done; the last one takes all over into the run's own.

    Raises:
        OthersAtWork: Another process is still at work, or has not begun, or reports.
        Unfinished: All others have ended, and some have not done their share.
    """
    folder = out / _FOLDER
    if not (folder / share.name / "records.jsonl").stat().st_size and _reported(out):
        own.close()
        _leave(folder, share)
        return
    write_atomically(folder / share.name / _COMPLETE, b"")
    own.close()
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(turn(folder / _LOCK))
        except FileNotFoundError:
            raise OthersAtWork(_TAKEN) from None
        _check_last(out, share)
        # Those that are done let go of their records before they wait for their turn.
        while any(map(_at_work, _left(folder, None))):
            time.sleep(_PATIENCE)
        with contextlib.closing(Records.begin(out, own.identity, resume=True)) as records:
            _take_over_all(records, folder)


def _leave(folder: Path, share: Share) -> None:
    """Go without a trace: the run was complete. The first process says so once more."""
    with contextlib.suppress(FileNotFoundError), turn(folder / _LOCK):
        shutil.rmtree(folder / share.name)
        _sweep(folder)
    if share.rank:
        raise OthersAtWork(_NOTHING)


def _sweep(folder: Path) -> None:
    """Remove the folder of all shares if there are none."""
    if not _left(folder, None):
        (folder / _LOCK).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.rmdir()


def _reported(out: Path) -> bool:
    return (out / "report.json").exists()


def _check_last(out: Path, share: Share) -> None:
    folder = out / _FOLDER
    others = [folder / name for name in share.others]
    undone = [part for part in others if not (part / _COMPLETE).exists()]
    if not (folder / share.name).exists():
        raise OthersAtWork(_TAKEN)
    if not undone:
        return
    if any(_at_work(part) for part in others) or not all(part.exists() for part in undone):
        raise OthersAtWork(
            f"Part {share.rank + 1} is done; {len(undone)} of {share.world} are not. Whichever "
            "process ends last reports."
        )
    names = ", ".join(part.name.partition("-")[0] for part in undone)
    raise Unfinished(
        f"The run is incomplete: of {share.world} processes, number {names} (from 0) was lost "
        "before its examples were done. All others have done theirs. --resume does the rest, with "
        "any number of processes."
    )


def whole(
    out: Path | None,
    identity: Mapping[str, Any],
    *,
    resume: bool,
    progress: Progress,
) -> Records:
    """The records of a run for one process, with what several have left behind.

    Processes that still work in the folder are waited for.

    Raises:
        BadInput: As `Records.begin`.
        CorruptFile: Likewise.
    """
    records = Records.begin(out, identity, resume=resume)
    if out is None or not (out / _FOLDER).is_dir():
        return records
    try:
        if any(map(_at_work, _left(out / _FOLDER, None))):
            progress.stage(_WAITING, 1, 0)
        while not _taken_over(records, out / _FOLDER):
            time.sleep(_PATIENCE)
    except BaseException:
        records.close()
        raise
    return records


def _taken_over(records: Records, folder: Path) -> bool:
    """Take all over; False if somebody still works there."""
    try:
        with turn(folder / _LOCK):
            if any(map(_at_work, _left(folder, None))):
                return False
            _take_over_all(records, folder)
    except FileNotFoundError:
        # Somebody else was faster.
        return True
    return True


def _take_over_all(records: Records, folder: Path) -> None:
    records.forget_unasked()
    for part in _left(folder, None):
        _take_over(records, part)
    _sweep(folder)


def _left(folder: Path, share: Share | None) -> list[Path]:
    """The folders of shares that nobody of this launch answers for."""
    parts = sorted(part for part in folder.glob("*-of-*") if part.is_dir())
    if share is None:
        return parts
    return [
        part
        for part in parts
        if not (part.name == share.name and (part / _COMPLETE).exists())
        and not (part.name in share.others and ((part / _COMPLETE).exists() or _at_work(part)))
    ]


def _at_work(part: Path) -> bool:
    return held(part / "records.jsonl")


def _take_over(records: Records, folder: Path) -> None:
    """Copy what a share has recorded, then remove it. May be cut off anywhere and done again."""
    with contextlib.closing(Records.begin(folder, records.identity, resume=True)) as part:
        # What it knew from the run's own records when it began stands there.
        part.forget_unasked(records.groups)
        points = part.points()
        known = {_key(group) for group in records.groups}
        for group in part.groups:
            if _key(group) in known:
                continue
            places = group.points
            if places is not None:
                kept = [place for place in places if place is not None]
                new = iter(records.keep(torch.from_numpy(points[kept].copy())) if kept else [])
                places = [None if place is None else next(new) for place in places]
            records.add(replace(group, points=places))
        del points
    shutil.rmtree(folder)


def _key(group: Group) -> tuple[int, tuple[int, ...]]:
    return group.stage, tuple(group.rows)


def _only(group: Group, rows: Collection[int]) -> Group:
    """What a group says about some of its examples; its images are not at hand."""
    places = [place for place, row in enumerate(group.rows) if row in rows]
    lists: dict[str, Any] = {
        field.name: [values[place] for place in places]
        for field in dataclasses.fields(group)
        if isinstance(values := getattr(group, field.name), list)
    }
    return replace(group, **lists | {"points": None})


def _elsewhere(rows: Tensor, count: int) -> Iterator[Group]:
    """Count the examples of other processes as wrong from the start: no attack is given them."""
    others = torch.ones(count, dtype=torch.bool)
    others[rows] = False
    positions = others.nonzero()[:, 0].tolist()
    if positions:
        yield Group(
            stage=-1,
            rows=positions,
            labels=[-1] * len(positions),
            targets=[0] * len(positions),
            lead=[None] * len(positions),
            forward=0,
            rows_run=0,
            seconds=0.0,
        )

"""What a run has found so far, on disk: append-only, so that nothing is lost when it is stopped.

A folder holds `run.json` (what the run is), `records.jsonl` (one line per group of examples that
has finished an attack) and `points.bin` (the changed images that lines refer to). A line is written
after the images it refers to; what a killed process left half-written is cut off when the run goes
on.
"""

import contextlib
import errno
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from torch import Tensor

from robustkit.errors import BadInput, CannotWrite, CorruptFile, RobustkitError
from robustkit.evaluation.locks import lock
from robustkit.files import write_atomically

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What another try cannot help: places where no folder can be made, names that are none.
_UNSUITABLE = (errno.EROFS, errno.ENOENT, errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP)


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Some examples that have finished one stage of the run.

    Attributes:
        stage: -1 for the clean pass, otherwise the attack's number in the plan.
        rows: Positions of the examples in the data.
        labels: What the model answered to the clean, or the changed, images.
        targets: Wanted labels, from the clean pass of a targeted run.
        outcome: After an attack: `broken`, `robust`, `violation` or `not_started`.
        distance: How far the returned image was changed; None where it means nothing.
        queries: Queries spent; None where foreign code cannot tell.
        passes: Forward and backward passes of the search for each example; None as for `queries`.
        lead: How far the right class (a target: all others) was ahead at the clean image, or at
            best after the attack, in logits; None where the attack cannot tell.
        aims: The wrong classes that the attack looked up as the nearest ones.
        nearest: Under a budget of queries, for each example the smallest distances that an attack
            on labels had reached at each mark of `labels.marks`; None where it had found nothing.
        through: What the attack was pointed at, as `Line.through` says it.
        selected: Of a random model's draws for choosing, how many reached the goal at each point.
        scored: Of its fresh draws, how many did; None where an earlier point was chosen.
        right: From the clean pass, whether each answer was right, 1 or 0; of a random model, how
            many of the fresh draws were. None where `labels` say it.
        polled: Forward passes for all those draws.
        points: Where in `points.bin` the changed image lies, in images; None if it was not kept.
        forward: Forward passes of the search, or of the clean pass.
        backward: Backward passes of the search.
        rows_run: Rows the hardware worked on, judging included.
        seconds: Wall time since the group before.
    """

    stage: int
    rows: list[int]
    labels: list[int]
    forward: int
    rows_run: int
    seconds: float
    backward: int = 0
    targets: list[int] | None = None
    outcome: list[str] | None = None
    distance: list[float | None] | None = None
    queries: list[int | None] | None = None
    passes: list[int | None] | None = None
    lead: list[float | None] | None = None
    aims: list[list[int]] | None = None
    nearest: list[list[float | None]] | None = None
    through: str = "direct"
    selected: list[int] | None = None
    scored: list[int | None] | None = None
    right: list[int] | None = None
    polled: int = 0
    points: list[int | None] | None = None


class Records:
    """The groups of a run, in memory and, if it has a folder, on disk."""

    def __init__(self, folder: Path | None, identity: Mapping[str, Any]) -> None:
        """Args: where to keep the records (None: memory only), and what the run is."""
        self.folder = folder
        self.identity = dict(identity)
        self.groups: list[Group] = []
        self.kept = 0
        self._lines: BinaryIO | None = None
        self._points: BinaryIO | None = None

    @classmethod
    def begin(cls, folder: Path | None, identity: Mapping[str, Any], *, resume: bool) -> Self:
        """Start a run's records, or go on with them.

        Raises:
            BadInput: The folder holds another run, or this one and `resume` was not asked for, or
                another process works in it, or it cannot be written.
            CorruptFile: The records were damaged by something other than an interruption.
        """
        records = cls(folder, identity)
        if folder is None:
            return records
        try:
            with writing(folder):
                records._open(folder, resume=resume)
        except BaseException:
            records.close()
            raise
        return records

    def _open(self, folder: Path, *, resume: bool) -> None:
        header, lines = folder / "run.json", folder / "records.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        known = header.exists()
        if known:
            self.check(folder, self.identity)
            if not resume:
                raise held_already(folder)
        elif lines.exists() and lines.stat().st_size:
            raise CorruptFile(
                f"{str(folder)!r} holds records, but run.json, which says of what run, is gone. "
                "Choose another --out."
            )
        self._lines = lines.open("ab")
        if lock(self._lines) is False:
            raise BadInput(
                f"Another process is working in {str(folder)!r}. Wait for it, or choose another "
                "--out."
            )
        if known:
            self._recover()
        else:
            write_atomically(header, json.dumps(self.identity, indent=1))
        self._points = (folder / "points.bin").open("ab")

    @staticmethod
    def width(folder: Path) -> int | None:
        """The batch width of the run in a folder; None if there is none."""
        with contextlib.suppress(OSError, ValueError, CorruptFile):
            width = _description(folder / "run.json").get("batch size")
            return width if isinstance(width, int) and width > 0 else None
        return None

    @staticmethod
    def check(folder: Path, identity: Mapping[str, Any]) -> None:
        """Refuse a folder that holds another run.

        Raises:
            BadInput: It does; the message says in what that run differs.
            CorruptFile: What describes its run was damaged.
        """
        header = folder / "run.json"
        if not header.exists():
            return
        found = _description(header)
        different = [key for key in identity if found.get(key) != identity[key]]
        if different:
            raise BadInput(
                f"{str(folder)!r} holds another run: it differs in {', '.join(different)}. "
                "Choose another --out, or go on with the same arguments and versions as that run."
            )

    def _recover(self) -> None:
        """Read the groups that are whole; cut off what was being written at the end."""
        lines = self._file("records.jsonl")
        whole = 0
        content = lines.read_bytes() if lines.exists() else b""
        for number, line in enumerate(content.splitlines(keepends=True), start=1):
            if not line.endswith(b"\n"):
                break
            try:
                self.groups.append(Group(**json.loads(line)))
            except (TypeError, ValueError) as error:
                raise CorruptFile(f"{str(lines)!r}, line {number} is damaged: {error}.") from error
            whole += len(line)
        if content:
            os.truncate(lines, whole)
        self._recover_points()

    def _recover_points(self) -> None:
        used = [point for group in self.groups for point in group.points or [] if point is not None]
        self.kept = max(used, default=-1) + 1
        points = self._file("points.bin")
        size = self.kept * self._point_bytes
        if points.exists() or size:
            if not points.exists() or points.stat().st_size < size:
                raise CorruptFile(
                    f"{str(points)!r} is shorter than the records say. Choose another --out."
                )
            os.truncate(points, size)

    def forget_unasked(self, earlier: Sequence[Group] = ()) -> None:
        """Forget a group at the end whose examples have no clean answers.

        The first attack may be recorded before the clean answers that it came with. One process
        comes by again with the same examples together; other processes would with others.

        Args:
            earlier: Where clean answers may stand too.
        """
        if not self.groups or self.groups[-1].stage < 0:
            return
        asked = (*earlier, *self.groups)
        rows = {row for group in asked if group.stage == -1 for row in group.rows}
        if rows.issuperset(self.groups[-1].rows):
            return
        lines = self._file("records.jsonl")
        with writing(lines):
            os.truncate(lines, lines.read_bytes()[:-1].rfind(b"\n") + 1)
            self.groups.pop()
            self._recover_points()

    @property
    def _point_bytes(self) -> int:
        return int(np.prod(self.identity["shape"])) * 4

    def _file(self, name: str) -> Path:
        return (self.folder or Path()) / name

    def keep(self, points: Tensor) -> list[int | None]:
        """Keep (N, C, H, W) changed images and say where, before the `add` that refers to them.

        Without a folder nothing is kept, so that memory does not grow with the number of examples.
        """
        if self._points is None:
            return [None] * len(points)
        with writing(self._file("points.bin")):
            self._points.write(points.detach().cpu().contiguous().numpy().tobytes())
            self._points.flush()
            os.fsync(self._points.fileno())
        self.kept += len(points)
        return list(range(self.kept - len(points), self.kept))

    def add(self, group: Group) -> None:
        """Record a group of examples that has finished a stage."""
        if self._lines is not None:
            with writing(self._file("records.jsonl")):
                self._lines.write(json.dumps(asdict(group)).encode() + b"\n")
                self._lines.flush()
                os.fsync(self._lines.fileno())
        self.groups.append(group)

    def stage(self, number: int) -> list[Group]:
        """The groups that have finished a stage."""
        return [group for group in self.groups if group.stage == number]

    def points(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """(M, C, H, W) float32, every kept image, memory-mapped."""
        shape = (self.kept, *self.identity["shape"])
        if not self.kept:
            return np.empty(shape, np.float32)
        return np.memmap(self._file("points.bin"), np.float32, mode="r", shape=shape)

    def close(self) -> None:
        """Close the files; everything recorded is on disk already."""
        for file in (self._lines, self._points):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()


def _description(header: Path) -> Mapping[str, Any]:
    """What `run.json` says the run is."""
    try:
        found = json.loads(header.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{str(header)!r} is damaged: {error}. Choose another --out.") from error
    if not isinstance(found, dict):
        raise CorruptFile(f"{str(header)!r} describes no run. Choose another --out.")
    return found


def held_already(folder: Path) -> BadInput:
    """What to say where a run is begun that is there already."""
    return BadInput(
        f"{str(folder)!r} holds this run already. "
        "Add --resume to go on with it, or choose another --out."
    )


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Tell what goes wrong while a file or folder of a run is written.

    Raises:
        BadInput: Writing there is not allowed or not possible.
        CannotWrite: The disk is full or failed; what was recorded is kept.
    """
    try:
        yield
    except RobustkitError:
        raise
    except PermissionError as error:
        raise BadInput(f"No permission to write {str(path)!r}. Choose another --out.") from error
    except (FileExistsError, NotADirectoryError) as error:
        raise BadInput(f"{str(path)!r} is not a folder. Choose another --out.") from error
    except OSError as error:
        if error.errno in _FULL:
            raise CannotWrite(
                f"The disk is full: {str(path)!r} could not be written. What was recorded is kept; "
                "free some space and run the same command with --resume."
            ) from error
        if error.errno in _UNSUITABLE:
            raise BadInput(
                f"{str(path)!r} cannot be written: {error.strerror}. Choose another --out."
            ) from error
        raise CannotWrite(
            f"Writing {str(path)!r} failed: {error.strerror or error}. What was recorded is kept; "
            "run the same command with --resume."
        ) from error


def finite(values: Tensor) -> list[float | None]:
    """Values for a record; None for what is not finite."""
    return [finite_or_none(value) for value in values.tolist()]


def finite_or_none(value: float) -> float | None:
    """A value for a record or a report; None for what is not finite."""
    return value if math.isfinite(value) else None

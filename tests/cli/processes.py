"""Command lines in processes of their own, killed, interrupted or starved at a chosen point.

They are forked from a server that has imported everything, so that one takes a moment only.
"""

import multiprocessing
import os
import resource
import signal
import sys
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from robustkit.evaluation.engine import Engine
from robustkit.evaluation.records import Group, Records
from robustkit.threat_models import Meter
from robustkit.unlearnable.audit import Audit


@dataclass(frozen=True)
class Ended:
    """How a process ended, and what it printed. A signal gives a negative code."""

    code: int | None
    out: str
    err: str


def end(words: list[str], folder: Path, *, how: str, at: int = 0, signal: int = 0) -> Ended:
    """Run a command line in a new process until it is ended there.

    Args:
        words: The command line.
        folder: Where its output goes.
        how: `asked`, `attack`, `training` (of an audit), `record`, `points` (in the middle of
            writing), `disk` (at so many bytes per file), `pipe` (nobody reads its output), or
            `never`.
        at: At the how manieth time.
        signal: The signal it sends itself.
    """
    process = _context().Process(target=_run, args=(words, folder, how, at, signal))
    process.start()
    process.join(120)
    if process.exitcode is None:
        process.kill()
    out, err = ((folder / name).read_text() for name in ("stdout", "stderr"))
    return Ended(process.exitcode, out, err)


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["robustkit.cli", "robustkit.evaluation.evasion", __name__])
    return context


def _run(words: list[str], folder: Path, how: str, at: int, number: int) -> None:
    import torch

    from robustkit.cli import run

    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, stream.fileno())
    _TRAPS[how](at, number)
    code = run(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _after(owner: Any, name: str, at: int, act: Any) -> None:  # noqa: ANN401
    """Call `act` with the arguments of the `at`-th call of a method, before it."""
    method, calls = getattr(owner, name), 0

    def counted(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        nonlocal calls
        calls += 1
        if calls == at:
            act(*args)
        return method(*args, **kwargs)

    setattr(owner, name, counted)


def _signal(number: int, *_: object) -> None:
    os.kill(os.getpid(), number)


def _asked(at: int, number: int) -> None:
    _after(Meter, "ask", at, partial(_signal, number))


def _attack(at: int, number: int) -> None:
    _after(Engine, "attack", at, partial(_signal, number))


def _training(at: int, number: int) -> None:
    _after(Audit, "_train", at, partial(_signal, number))


def _record(at: int, number: int) -> None:
    def tear(records: Records, group: Group) -> None:
        assert records._lines is not None
        records._lines.write(b'{"stage": 0, "rows": [0, 1')
        records._lines.flush()
        _signal(number)

    _after(Records, "add", at, tear)


def _points(at: int, number: int) -> None:
    def tear(records: Records, points: object) -> None:
        assert records._points is not None
        records._points.write(b"\x01" * 100)
        records._points.flush()
        _signal(number)

    _after(Records, "keep", at, tear)


def _disk(at: int, number: int) -> None:
    # The limit would also end the files of this test; they are shorter.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (at, at))


def _pipe(at: int, number: int) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 1)


def _never(at: int, number: int) -> None:
    """The process runs to its end."""


_TRAPS = {
    "asked": _asked,
    "attack": _attack,
    "training": _training,
    "record": _record,
    "points": _points,
    "disk": _disk,
    "pipe": _pipe,
    "never": _never,
}

"""The command line: one file per command, nothing heavy imported before a command runs."""

import shlex
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from robustkit.lazy import exports
from robustkit.memory import keep_freed

if TYPE_CHECKING:
    from robustkit.cli.running import commands as commands
    from robustkit.cli.running import run as run
else:
    __getattr__, __dir__, __all__ = exports(__name__, {"commands": "running", "run": "running"})

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit.

    Exit codes: 0 complete, 1 internal error, 2 bad input, 3 a violation was found, 4 stopped by a
    full disk or a lost device, 130 interrupted, 141 the reader of the output has gone.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        # Imported here, so that an interruption while Python starts ends like any other.
        from robustkit.cli import ranks
        from robustkit.cli.running import run

        keep_freed()
        alone = "evaluate" not in given
        code = run(given) if alone else ranks.watched(partial(run, given))
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        code = INTERRUPTED
    sys.exit(code)


def command_line(words: Sequence[str]) -> str:
    """The command that these arguments make, quoted for a shell."""
    return shlex.join(["robustkit", *words])

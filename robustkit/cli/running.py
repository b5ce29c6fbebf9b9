"""All commands, and how their ends become exit codes."""

import contextlib
import errno
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import TextIO

import click

from robustkit.cli import INTERRUPTED, command_line, ranks
from robustkit.cli.defend import defend
from robustkit.cli.evaluate import evaluate
from robustkit.cli.listing import list_
from robustkit.cli.selftest import selftest
from robustkit.cli.show import show
from robustkit.cli.train import train
from robustkit.cli.unlearn import unlearn
from robustkit.errors import BadInput, RobustkitError, RobustkitWarning

STOPPED = 4
# What a shell says of a program that SIGPIPE has ended.
UNREAD = 141
_FULL = (errno.EDQUOT, errno.ENOSPC)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="robustkit")
def commands() -> None:
    """Adversarial robustness and ML security under one threat model.

    \b
    Start with:  robustkit evaluate --threat linf
    """  # noqa: D301


commands.add_command(defend)
commands.add_command(evaluate)
commands.add_command(list_)
commands.add_command(selftest)
commands.add_command(show)
commands.add_command(train)
commands.add_command(unlearn)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _warnings_in_words():
            code = commands.main(given, prog_name="robustkit", standalone_mode=False, obj=given)
        # A disk may be full only now.
        sys.stdout.flush()
    except (click.ClickException, BadInput) as error:
        _refuse(error)
        return error.exit_code
    except RobustkitError as error:
        _tell(error, _how_to_go_on(given) if error.exit_code == STOPPED else "")
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        if ranks.first():
            click.echo(f"Interrupted. {_how_to_go_on(given)}".rstrip(), err=True)
        return INTERRUPTED
    except (OSError, SystemExit) as error:
        unwritten = _unwritten(error)
        if unwritten == STOPPED:
            _tell(f"The output cannot be written: {error}.", _how_to_go_on(given))
        if unwritten is None:
            raise
        return unwritten
    return code if isinstance(code, int) else 0


def _unwritten(error: OSError | SystemExit) -> int | None:
    """The exit code if an error says that our output was not written; None for any other error."""
    # click and rich end the program where the reader has gone.
    if isinstance(error, BrokenPipeError) or (isinstance(error, SystemExit) and error.code == 1):
        code = UNREAD
    elif isinstance(error, OSError) and error.errno in _FULL:
        code = STOPPED
    else:
        return None
    # Python would complain again when it flushes at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _refuse(error: click.ClickException | BadInput) -> None:
    if not ranks.may_tell():
        return
    if isinstance(error, click.ClickException):
        error.show()
    else:
        _tell(error, "")


def _tell(error: object, advice: str) -> None:
    click.echo(f"Error: {error}", err=True)
    if advice:
        click.echo(advice, err=True)


@contextlib.contextmanager
def _warnings_in_words() -> Iterator[None]:
    """Inside, our own warnings are lines on stderr, without the place in the code."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", RobustkitWarning)
        usual = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if not issubclass(category, RobustkitWarning):
                usual(message, category, filename, lineno, file, line)
            elif ranks.may_tell():
                click.echo(f"Warning: {message}", err=True)

        warnings.showwarning = show
        yield


def _how_to_go_on(given: Sequence[str]) -> str:
    """What becomes of a run that was stopped; empty for a command that leaves nothing behind."""
    if not {"evaluate", "audit"} & set(given):
        return ""
    if not any(word == "--out" or word.startswith("--out=") for word in given):
        return "Nothing was kept; add --out DIR to be able to resume a run."
    words = [*given, *([] if "--resume" in given else ["--resume"])]
    return f"What was found is kept. Go on with:\n  {command_line(words)}"

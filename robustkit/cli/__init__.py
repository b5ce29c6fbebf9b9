"""The command line: one file per command, nothing heavy imported before a command runs."""

import contextlib
import os
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TextIO

import click

from robustkit.cli import ranks
from robustkit.cli.defend import defend
from robustkit.cli.evaluate import evaluate
from robustkit.cli.listing import list_
from robustkit.cli.selftest import selftest
from robustkit.cli.show import show
from robustkit.cli.train import train
from robustkit.cli.unlearn import unlearn
from robustkit.errors import BadInput, RobustkitError, RobustkitWarning

STOPPED = 4
INTERRUPTED = 130


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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit.

    Exit codes: 0 complete, 1 internal error, 2 bad input, 3 a violation was found, 4 stopped by a
    full disk or a lost device, 130 interrupted.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    alone = "evaluate" not in given
    sys.exit(run(given) if alone else ranks.watched(partial(run, given)))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _warnings_in_words():
            code = commands.main(given, prog_name="robustkit", standalone_mode=False, obj=given)
    except click.ClickException as error:
        if ranks.may_tell():
            error.show()
        return error.exit_code
    except BadInput as error:
        if ranks.may_tell():
            click.echo(f"Error: {error}", err=True)
        return error.exit_code
    except RobustkitError as error:
        click.echo(f"Error: {error}", err=True)
        if error.exit_code == STOPPED:
            click.echo(_how_to_go_on(given), err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        if ranks.first():
            click.echo(f"Interrupted. {_how_to_go_on(given)}".rstrip(), err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone; Python must not complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code if isinstance(code, int) else 0


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


def command_line(words: Sequence[str]) -> str:
    """The command that these arguments make, quoted for a shell."""
    return shlex.join(["robustkit", *words])

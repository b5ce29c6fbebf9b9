"""Models that a saved defense is made of, as words of the command line."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robustkit.errors import BadInput

if TYPE_CHECKING:
    from robustkit.cli.origin import Origin


def listed(text: str) -> list[str]:
    """The words of a comma-separated list."""
    return [word.strip() for word in text.split(",") if word.strip()]


def check_out(specs: Sequence[str], out: Path) -> None:
    """Refuse to write over what is being defended.

    Raises:
        BadInput: The folder is that of a model.
    """
    for spec in specs:
        if Path(spec).is_dir() and Path(spec).resolve() == out.resolve():
            raise BadInput(f"--out is the folder of a member, {spec!r}. Give another folder.")


def check_members(specs: Sequence[str]) -> None:
    """Refuse what is not trained, and what is named twice.

    Raises:
        BadInput: There is one.
    """
    from robustkit import models

    for spec in specs:
        if models.needs_weights(spec):
            raise BadInput(
                f"{spec!r} is an architecture without weights. Give trained models: directories "
                "that robustkit saved, or names that come with weights."
            )
    twice = [spec for number, spec in enumerate(specs) if spec in specs[:number]]
    if twice:
        raise BadInput(f"The member {twice[0]!r} is named twice. Give different ones.")


def recipe_of(spec: str) -> dict[str, Any]:
    """What builds a member again.

    Raises:
        BadInput: The user's code does, which a folder never starts.
    """
    from robustkit import models

    made = models.recipe(spec, {})
    if made["kind"] == "code":
        raise BadInput(
            f"Your code builds the member {spec!r}, and a saved defense never runs code. Train "
            "members by their names (robustkit train --model cnn), or put them together in Python."
        )
    return made


def tell_verdict(out: Path, origin: "Origin", data: str | None, threat: Sequence[str]) -> None:
    """Say how to evaluate what was written.

    Args:
        out: Its folder.
        origin: Of what it was made of.
        data: In words; None for what that has learnt from, if it says so.
        threat: The adversary, in words of the command line.
    """
    from robustkit.cli import command_line

    with contextlib.suppress(BadInput):
        data = data or origin.data
    words = [] if data is None else ["--data", data]
    click.echo("For a verdict:")
    click.echo(f"  {command_line(['evaluate', '--model', str(out), *words, *threat])}")

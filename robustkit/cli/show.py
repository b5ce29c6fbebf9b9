"""`robustkit show`."""

import dataclasses
import inspect
from typing import TYPE_CHECKING

import click

from robustkit import registry
from robustkit.errors import UnknownName

if TYPE_CHECKING:
    from robustkit.threat_models import ThreatModel

_WITH_OPTIONS = ("attacks", "defenses", "learners", "losses", "unlearnable")


@click.command()
@click.argument("name")
def show(name: str) -> None:
    """Show what NAME is: its description, options and reference."""
    found = [entry for kind in registry.KINDS for entry in registry.entries(kind).values()]
    matching = [entry for entry in found if entry.name == name]
    if not matching:
        *others, last = map(registry.singular, registry.KINDS)
        kinds = f"{', '.join(others)} or {last}"
        raise UnknownName(kinds, name, (entry.name for entry in found))
    for number, entry in enumerate(matching):
        click.echo("\n" if number else "", nl=False)
        click.echo(f"{entry.name} ({registry.singular(entry.kind)}): {entry.summary}")
        for label, value in (
            ("access", entry.access),
            ("norms", ", ".join(entry.norms)),
            ("goals", ", ".join(entry.goals)),
            ("needs", f"robustkit[{entry.extra}]" if entry.extra else ""),
        ):
            if value:
                click.echo(f"  {label}: {value}")
        thing = entry.load()
        click.echo(f"\n{inspect.getdoc(thing) or 'No description.'}")
        if entry.kind == "plans":
            _show_plan(entry.name)
        if entry.kind == "threats":
            _show_threat(thing())
        options = _options(thing) if entry.kind in _WITH_OPTIONS else []
        if options:
            click.echo("\nOptions:")
            # One method at a time is named on a command line, of attacks several.
            owner = "" if entry.kind == "unlearnable" else f"{entry.name}."
            for line in options:
                click.echo(f"  {owner}{line}")


def _show_plan(name: str) -> None:
    from robustkit.evaluation.plans import words

    click.echo("\nAttacks, each on the examples still standing:")
    for line in words(name):
        click.echo(f"  {line}")
    click.echo("\nIn l1:")
    for line in words(name, "l1"):
        click.echo(f"  {line}")


def _show_threat(threat: "ThreatModel") -> None:
    from robustkit.threat_models.presets import written

    if threat.perturbation is None:
        return
    click.echo("\nAs a file of your own, for --threat NAME.toml:\n")
    click.echo(written(threat), nl=False)


def _options(thing: object) -> list[str]:
    if not dataclasses.is_dataclass(thing):
        return []
    return [
        f"{field.name}={'' if field.default is dataclasses.MISSING else field.default}"
        for field in dataclasses.fields(thing)
        # A key is given as a file.
        if field.init and field.name != "key"
    ]

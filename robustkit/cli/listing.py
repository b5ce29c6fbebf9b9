"""`robustkit list`."""

import click

from robustkit import registry


@click.command("list")
@click.argument("kind", required=False, type=click.Choice(registry.KINDS))
def list_(kind: str | None) -> None:
    """List what there is: attacks, defenses, unlearnable data, models, data, threats and more."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for chosen in registry.KINDS if kind is None else (kind,):
        table = Table(title=chosen, title_justify="left", box=None, pad_edge=False, expand=False)
        table.add_column("name", no_wrap=True)
        if chosen == "attacks":
            for column in ("access", "norms", "goals"):
                table.add_column(column)
        table.add_column("", ratio=1)
        for entry in registry.entries(chosen).values():
            goals = "any" if len(entry.goals) > 1 else " ".join(entry.goals)
            facts = [entry.access, " ".join(entry.norms), goals]
            needs = f" (needs robustkit[{entry.extra}])" if entry.extra else ""
            row = [entry.name, *(facts if chosen == "attacks" else []), entry.summary + needs]
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
        console.print()

"""`robustkit selftest`."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

    from robustkit.evaluation.selftest import Check

FAULT = 3


@click.command()
@click.option(
    "--attack",
    help="Check this attack of your own instead: package.module:factory (runs that code).",
)
def selftest(attack: str | None) -> int:
    """Check that attacks are as strong as they claim.

    Gradient attacks are compared with a plain reference on digits, whose values are often exactly
    0 or 1, with more steps and steps of other lengths; and attacks with planted faults must be
    caught, such as a clamp inside the differentiated graph.

    \b
    Exit codes: 0 all is well, 3 a check has failed, 2 bad input.
    """  # noqa: D301
    import torch
    from rich.console import Console

    from robustkit.evaluation.selftest import attack_from_code
    from robustkit.evaluation.selftest import selftest as checks

    given = None if attack is None else attack_from_code(attack)
    done = []
    threads = torch.get_num_threads()
    # The network is so small that threads would wait for each other most of the time.
    torch.set_num_threads(1)
    try:
        for check in checks(given):
            done.append(check)
            click.echo(f"{check.attack}, {check.name}: {_verdict(check)}", err=True)
    finally:
        torch.set_num_threads(threads)
    _show(done, Console())
    failed = [check for check in done if not check.passed]
    if failed:
        click.echo(f"{len(failed)} of {len(done)} checks failed.")
    else:
        click.echo(f"All {len(done)} checks passed.")
    return FAULT if failed else 0


def _verdict(check: "Check") -> str:
    return "ok" if check.passed else "FAILED"


def _show(checks: "list[Check]", console: "Console") -> None:
    from rich import box
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for name in ("attack", "checked", "found", "wanted", ""):
        table.add_column(name, overflow="fold")
    for check in checks:
        words = (check.attack, check.name, check.found, check.wanted)
        style = "green" if check.passed else "bold red"
        table.add_row(*map(Text, words), Text(_verdict(check), style))
    console.print(table)
    for hint in dict.fromkeys(check.hint for check in checks if check.hint):
        console.print(Padding(Text(hint), (1, 0, 0, 2)))

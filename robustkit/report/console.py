"""A report in a terminal or a pipe."""

from collections.abc import Callable

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from robustkit.report import words
from robustkit.report.attacks_table import show_attacks
from robustkit.report.base import Report
from robustkit.report.battery import show_battery
from robustkit.report.corruptions import CorruptionsReport
from robustkit.report.evasion import EvasionReport
from robustkit.report.grid import show_grid
from robustkit.report.skipped import show_skipped
from robustkit.report.unlearnable import UnlearnableReport

_STYLES = {"info": "cyan", "warn": "yellow", "void": "bold red", "unlisted": "magenta"}


def show(report: Report, console: Console) -> None:
    """Print a report: the verdict first, then how it came about.

    Names and messages in it may come from anywhere: they are printed as plain text, whatever they
    hold.

    Args:
        report: What to print.
        console: Where; without a terminal no colours are used.
    """
    safe = _filter(console)
    _headline(report, console, safe)
    if isinstance(report, EvasionReport):
        show_attacks(report, console, safe)
        if told := words.effort(report.curves):
            console.print(Text(told, "dim"))
        _radii(report, console)
        _curve(report, console)
        show_skipped(report.skipped, console, safe)
    if isinstance(report, CorruptionsReport):
        show_grid(report, console, safe)
    if isinstance(report, UnlearnableReport):
        show_battery(report, console, safe)
    _controls(report, console, safe)
    _flags(report, console, safe)
    _cost(report, console)


def _filter(console: Console) -> Callable[[str], str]:
    """Makes text printable in what the console's stream can hold."""
    encoding = console.encoding

    def safe(text: str) -> str:
        return words.printable(text).encode(encoding, "backslashreplace").decode(encoding)

    return safe


def _headline(report: Report, console: Console, safe: Callable[[str], str]) -> None:
    verdict = report.verdict
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(justify="right")
    grid.add_column()
    for place, (name, value, low, high) in enumerate(words.shares(report)):
        style = "" if place else "bold"
        interval = f"95 % interval {100 * low:.1f} to {words.percent(high)}"
        interval += "" if place else f", n = {verdict.n:,}"
        grid.add_row(
            Text(safe(words.metric(name)), style), Text(words.percent(value), style), Text(interval)
        )
    console.print(grid)
    if words.invalid(report):
        console.print(Text("This number is not valid: see the flags below.", "bold red"))
    console.print()
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    name = f"{report.about.name} ({report.model.spec})" if report.about.name else report.model.spec
    grid.add_row("Model", Text(safe(name)))
    data = f"{report.data.spec}, split {report.data.split}, {report.data.n:,} examples"
    grid.add_row("Data", Text(safe(data)))
    grid.add_row("Threat", Text(safe(f"{report.threat.name}. {words.adversary(report)}")))
    console.print(grid)


def _radii(report: EvasionReport, console: Console) -> None:
    """Robust accuracy at each radius of a sweep."""
    if not report.curves.eps:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for name in ("Radius", "Robust"):
        table.add_column(name, justify="right", no_wrap=True)
    for point in report.curves.eps:
        table.add_row(words.number(point.eps), words.percent(point.robust))
    console.print()
    console.print(Text("Robust accuracy over the radius", "bold"))
    console.print(table)


def _curve(report: EvasionReport, console: Console) -> None:
    """Distances over queries, as numbers; over passes there is a picture on the page."""
    if not report.curves.queries:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    titles, rows = words.over_queries(report.curves)
    for name in titles:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print()
    console.print(Text("Distance over queries, and success within the radius", "bold"))
    console.print(table)
    if report.curves.nearest is not None:
        console.print(Text(words.nearest(report.curves), "dim"))


def _controls(report: Report, console: Console, safe: Callable[[str], str]) -> None:
    if not report.controls:
        return
    console.print()
    console.print(Text("Controls", "bold"))
    for control in report.controls:
        value = "not measured" if control.value is None else f"{control.value:.4g}"
        line = Text(f"{safe(control.name)}: {safe(words.metric(control.metric))} {value}. ")
        line.append(safe(control.message), "dim")
        console.print(Padding(line, (0, 0, 0, 2)))


def _flags(report: Report, console: Console, safe: Callable[[str], str]) -> None:
    if not report.flags:
        return
    console.print()
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for flag in words.worst_first(report.flags):
        message = Text.assemble((safe(flag.id), "bold"), f"  {safe(flag.message)}")
        grid.add_row(Text(flag.severity, _STYLES[flag.severity]), message)
    console.print(Text("Flags", "bold"))
    console.print(Padding(grid, (0, 0, 0, 2)))


def _cost(report: Report, console: Console) -> None:
    cost = report.cost
    console.print()
    console.print(
        Text(
            f"{cost.forward:,} forward and {cost.backward:,} backward passes "
            f"({cost.rows_run:,} rows run) in {words.seconds(cost.seconds)}",
            "dim",
        )
    )

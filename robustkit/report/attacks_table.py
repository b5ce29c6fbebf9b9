"""The attacks of a report, as a table in a terminal."""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from robustkit.report import words
from robustkit.report.evasion import AttackRow, EvasionReport

_TEXTS = ("Attack", "Through")
# Numbers are never cut: where there is no room for all of them, the last columns are left out.
_NUMBERS = ("In", "Broken", "Left", "Viol.", "Forward", "Backward", "Time")
_VIOLATIONS = _NUMBERS.index("Viol.")
# Text is folded to this many characters at least.
_NARROWEST = 7
# Options that tell attacks of one name apart.
_TELLING = ("steps", "loss", "targets")


def show_attacks(report: EvasionReport, console: Console, safe: Callable[[str], str]) -> None:
    """Print a row for each attack that had something to try.

    Args:
        report: Whose attacks.
        console: Where.
        safe: Makes text printable there.
    """
    if not report.attacks:
        return
    tried = [(row, share) for row, share in words.left(report) if row.examples_in]
    figures = [_figures(row, share) for row, share in tried]
    widths = [max(map(cell_len, column)) for column in zip(_NUMBERS, *figures, strict=True)]
    narrowest = len(_TEXTS) * (_NARROWEST + 1)
    while narrowest + _across(widths) > console.width and len(widths) > 1:
        widths.pop()
    rows = [row for row, _ in tried]
    through = max((cell_len(safe(row.through)) for row in rows), default=0)
    room = console.width - _across(widths) - max(through, _NARROWEST) - len(_TEXTS)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0, show_edge=False)
    for name in _TEXTS:
        table.add_column(name, overflow="fold", min_width=_NARROWEST)
    for name, width in zip(_NUMBERS, widths, strict=False):
        table.add_column(name, justify="right", no_wrap=True, min_width=width)
    for row, label, numbers in zip(rows, _labels(rows, room, safe), figures, strict=True):
        cells = [Text(number) for number in numbers[: len(widths)]]
        if row.violations and len(cells) > _VIOLATIONS:
            cells[_VIOLATIONS].stylize("bold red")
        table.add_row(Text(label), Text(safe(row.through)), *cells)
    console.print()
    console.print(table)
    if idle := len(report.attacks) - len(tried):
        console.print(Text(f"{idle} more had nothing left to try."))


def _across(widths: Sequence[int]) -> int:
    """The width of columns with a space between any two."""
    return sum(widths) + len(widths) - 1


def _figures(row: AttackRow, share: float) -> tuple[str, ...]:
    return (
        f"{row.examples_in:,}",
        f"{row.broken:,}",
        words.percent(share),
        f"{row.violations:,}",
        words.compact(row.forward),
        words.compact(row.backward),
        words.brief(row.seconds),
    )


def _labels(rows: Sequence[AttackRow], room: int, safe: Callable[[str], str]) -> list[str]:
    """The names, with the fewest options that tell rows apart as far as there is room."""
    alike = Counter((row.name, row.through) for row in rows)

    def label(row: AttackRow, keys: Sequence[str]) -> str:
        told = {key: row.options[key] for key in keys if key in row.options}
        apart = alike[row.name, row.through] > 1
        return safe(f"{row.name} {words.options(told)}" if apart and told else row.name)

    def distinct(labels: Sequence[str]) -> int:
        return len({(name, row.through) for name, row in zip(labels, rows, strict=True)})

    plain, *longer = (
        [label(row, keys) for row in rows]
        for count in range(len(_TELLING) + 1)
        for keys in combinations(_TELLING, count)
    )
    fitting = (names for names in longer if max(map(cell_len, names), default=0) <= room)
    return max([plain, *fitting], key=distinct)

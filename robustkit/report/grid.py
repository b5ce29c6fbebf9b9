"""The grid of corruptions and severities, as a table in a terminal and as a picture on a page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from robustkit.report.corruptions import SEVERITIES, CorruptionRow, CorruptionsReport
from robustkit.report.pictures import data_uri

# Lengths of the picture, in its own unit.
_LABEL, _CELL, _ROW, _GAP = 150, 72, 24, 8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Corrupted:
    """One corrupted image to show.

    Attributes:
        title: The corruption and its severity.
        answer: What the model answered.
        label: The right class.
        image: (C, H, W) in [0, 1].
    """

    title: str
    answer: str
    label: str
    image: Tensor

    @property
    def right(self) -> bool:
        """Whether the answer is the right class."""
        return self.answer == self.label


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One cell of the picture.

    Attributes:
        x: Its left edge.
        value: The accuracy.
        title: What it is about, in words.
    """

    x: int
    value: float
    title: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One row of the picture.

    Attributes:
        y: Its upper edge.
        name: The corruption.
        cells: Five severities and their mean.
    """

    y: int
    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatMap:
    """The grid as a picture.

    Attributes:
        width: Of all.
        height: Of all.
        cell: Width of a cell.
        row: Height of a cell.
        label: Where the names end.
        headings: Middle and text of each column's heading.
        lines: The rows, families apart.
    """

    width: int
    height: int
    cell: int
    row: int
    label: int
    headings: tuple[tuple[int, str], ...]
    lines: tuple[Line, ...]


def heat_map(report: CorruptionsReport) -> HeatMap:
    """Where everything in the picture of the grid lies."""
    lefts = [_LABEL + place * _CELL + (_GAP if place == SEVERITIES else 0) for place in range(6)]
    lines = []
    y, family = _ROW, ""
    for row in report.grid:
        y += _GAP if row.family != family and family else 0
        family = row.family
        lines.append(Line(y=y, name=row.name, cells=_cells(row, lefts)))
        y += _ROW
    names = (*(str(severity) for severity in range(1, SEVERITIES + 1)), "mean")
    return HeatMap(
        width=lefts[-1] + _CELL,
        height=y,
        cell=_CELL,
        row=_ROW,
        label=_LABEL,
        headings=tuple((x + _CELL // 2, name) for x, name in zip(lefts, names, strict=True)),
        lines=tuple(lines),
    )


def _cells(row: CorruptionRow, lefts: Sequence[int]) -> tuple[Cell, ...]:
    values = [cell.value for cell in row.severities]
    titles = [f"{row.name}, severity {number}" for number in range(1, SEVERITIES + 1)]
    return tuple(
        Cell(x=x, value=value, title=title)
        for x, value, title in zip(
            lefts, (*values, row.mean), (*titles, f"{row.name}, mean"), strict=True
        )
    )


def shown(images: Sequence[Corrupted]) -> list[tuple[Corrupted, str]]:
    """Each corrupted image with the address of its picture."""
    return [(image, data_uri(image.image)) for image in images]


def show_grid(report: CorruptionsReport, console: Console, safe: Callable[[str], str]) -> None:
    """Print the grid.

    Args:
        report: Whose grid.
        console: Where.
        safe: Makes text printable there.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("Accuracy in %", overflow="fold", min_width=7)
    for severity in range(1, SEVERITIES + 1):
        table.add_column(str(severity), justify="right", no_wrap=True)
    table.add_column("Mean", justify="right", no_wrap=True)
    if report.mce is not None:
        table.add_column("Error/ref.", justify="right", no_wrap=True)
    for place, row in enumerate(report.grid):
        last = place + 1 == len(report.grid) or report.grid[place + 1].family != row.family
        table.add_row(
            Text(safe(row.name)),
            *(f"{100 * cell.value:.1f}" for cell in row.severities),
            Text(f"{100 * row.mean:.1f}", "bold"),
            *([] if report.mce is None else [_share(row.corruption_error)]),
            end_section=last,
        )
    means = [
        sum(row.severities[place].value for row in report.grid) / max(len(report.grid), 1)
        for place in range(SEVERITIES)
    ]
    table.add_row(
        Text("mean", "bold"),
        *(f"{100 * mean:.1f}" for mean in means),
        Text(f"{100 * report.mean_accuracy.value:.1f}", "bold"),
        *([] if report.mce is None else [_share(report.mce.value)]),
    )
    console.print()
    console.print(table)
    if report.mce is not None:
        console.print()
        console.print(
            Text(
                f"Errors as a share of those of {safe(report.mce.reference.spec)}, mCE "
                f"{_share(report.mce.value)}"
            )
        )


def _share(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.1f} %"

"""What learners make of published data, as tables in a terminal and as bars on a page."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from robustkit.report import words
from robustkit.report.skipped import show_skipped
from robustkit.report.unlearnable import LearnerRow, UnlearnableReport
from robustkit.statistics import Interval

# Headings, and what they mean; those about the key only where it is known.
_ALWAYS = ("Last", "Best", "Clean", "Recovered")
_KEYED = ("Same key", "Permuted")


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One learner of the picture.

    Attributes:
        row: What it has learnt.
        chosen: Whether the verdict is about it.
        spoken: The bar in words, for who cannot see it.
        cells: Heading and text of every figure.
    """

    row: LearnerRow
    chosen: bool
    spoken: str
    cells: tuple[tuple[str, str], ...]


def bars(report: UnlearnableReport) -> list[Bar]:
    """One bar per learner, in the order of the report."""
    return [
        Bar(
            row=row,
            chosen=row.name == report.best.learner,
            spoken=f"{words.percent(row.last.value)} from the published data, "
            f"{words.percent(row.reference.value)} from the originals",
            cells=tuple(_cells(row, keyed=_keyed(report))),
        )
        for row in report.learners
    ]


def _keyed(report: UnlearnableReport) -> bool:
    return any(row.same_key is not None for row in report.learners)


def _cells(row: LearnerRow, *, keyed: bool) -> Iterator[tuple[str, str]]:
    shares = (row.last, row.best, row.reference, row.recovered)
    yield from zip(_ALWAYS, map(_figure, shares), strict=True)
    if keyed:
        yield from zip(_KEYED, map(_figure, (row.same_key, row.permuted_key)), strict=True)
    yield "Time", words.brief(row.seconds)


def _figure(share: Interval | None) -> str:
    return "none" if share is None else f"{100 * share.value:.1f}"


def points(difference: Interval | None) -> str:
    """A difference of shares with its interval."""
    if difference is None:
        return ""
    value, low, high = (100 * end for end in (difference.value, difference.low, difference.high))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def explained(report: UnlearnableReport) -> str:
    """What the verdict is about, in a few sentences."""
    best = report.best
    return (
        f"The best learner is {best.learner}. Learner and epoch were chosen on {best.n:,} clean "
        f"test images and scored on the {report.verdict.n:,} others. Trained on the originals it "
        f"is right on {words.percent(best.reference.value)} of these, a difference of "
        f"{points(best.lost)} points."
    )


def facts(report: UnlearnableReport) -> list[tuple[str, str]]:
    """What was published, in words."""
    published, change = report.publication, report.distortion
    options = words.options(published.options)
    method = published.method or "not known"
    rows = [
        ("Published", f"{published.data.n:,} images of {published.data.spec}"),
        ("Originals", published.originals),
        ("Method", f"{method} ({options})" if options else method),
        ("Changed", f"{words.percent(published.changed)} of the images"),
    ]
    if change.psnr is not None and change.ssim is not None and change.linf is not None:
        measures = (
            f"PSNR {change.psnr.mean:.1f} dB, SSIM {change.ssim.mean:.3f}, largest change of a "
            f"value {change.linf.mean:.3f}: means over the images that differ"
        )
        rows.append(("Distortion", measures))
    return rows


def show_battery(report: UnlearnableReport, console: Console, safe: Callable[[str], str]) -> None:
    """Print what every learner makes of the published data.

    Args:
        report: Whose learners.
        console: Where.
        safe: Makes text printable there.
    """
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for name, text in facts(report):
        grid.add_row(name, Text(safe(text)))
    console.print(grid)
    console.print()
    console.print(Text(safe(explained(report))))
    table = _table("Learner", [name for name, _ in bars(report)[0].cells])
    for bar in bars(report):
        style = "bold" if bar.chosen else ""
        table.add_row(
            Text(safe(bar.row.name), style), *(Text(text, style) for _, text in bar.cells)
        )
    console.print()
    console.print(Text("Accuracy on clean test images in %", "bold"))
    console.print(table)
    _partial(report, console)
    show_skipped(report.skipped, console, safe)


def _partial(report: UnlearnableReport, console: Console) -> None:
    if not report.partial:
        return
    table = _table("Published", ["Mixed", "Clean part alone", "Difference"])
    for row in report.partial:
        table.add_row(
            f"{100 * row.published:g} %",
            _figure(row.mixed),
            _figure(row.alone),
            points(row.difference),
        )
    console.print()
    console.print(Text("Plain training where a part only is published, accuracy in %", "bold"))
    console.print(table)


def _table(first: str, others: list[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column(first, overflow="fold", min_width=9)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table

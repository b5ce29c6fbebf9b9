"""What was not run, and why, in a terminal."""

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from robustkit.report import words
from robustkit.report.evasion import Skipped


def show_skipped(skipped: Sequence[Skipped], console: Console, safe: Callable[[str], str]) -> None:
    """Print the names under each reason; nothing where there are none.

    Args:
        skipped: What was not run.
        console: Where.
        safe: Makes text printable there.
    """
    if not skipped:
        return
    console.print()
    console.print(Text("Not run", "bold"))
    for reason, names in words.by_reason(skipped).items():
        line = Text(", ".join(map(safe, names)))
        line.append(f": {safe(reason)}", "dim")
        console.print(Padding(line, (0, 0, 0, 2)))

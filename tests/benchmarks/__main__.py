"""`python -m tests.benchmarks NAME ...`: measure, keep the results, render docs/benchmarks.md.

Without a name the page is rendered from the results that are there.
"""

import importlib
import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from robustkit.memory import keep_freed

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parents[1] / "docs" / "benchmarks.md"

INTRODUCTION = """# Benchmarks

Every figure here is written by `python -m tests.benchmarks NAME` and none by hand. Times depend on
the machine, so what counts are ratios between things that were measured side by side in one run.
"""


def main(names: list[str]) -> None:
    """Run the named benchmarks one after the other and render the page."""
    # As the command line does.
    keep_freed()
    for name in names:
        measure(name)
    PAGE.write_text(render(), encoding="utf-8")


def measure(name: str) -> None:
    """Run one benchmark and keep what it found, with what is needed to run it again."""
    module = importlib.import_module(f"tests.benchmarks.{name.replace('-', '_')}")
    found = module.run()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    result = {
        "title": module.TITLE,
        "explanation": " ".join((module.__doc__ or "").split()),
        "command": f"python -m tests.benchmarks {name}",
        "commit": commit.stdout.strip(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "device": device(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        **found,
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(result, indent=1) + "\n"
    (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")


def device() -> str:
    """What the figures were measured on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {platform.machine()}"


def render() -> str:
    """The page, from the results."""
    parts = [INTRODUCTION]
    files = sorted(RESULTS.glob("*.json"))
    parts += [section(json.loads(file.read_text(encoding="utf-8"))) for file in files]
    return "\n".join(parts)


def section(result: dict[str, Any]) -> str:
    """One benchmark as Markdown: `rows` with the same keys, `conclusions` if it draws any."""
    columns = list(result["rows"][0])
    lines = [
        f"## {result['title']}\n",
        f"{result['explanation']}\n",
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
        *(f"| {' | '.join(cell(row[column]) for column in columns)} |" for row in result["rows"]),
        "",
        *(f"- {sentence}" for sentence in result.get("conclusions", ())),
        *([""] if result.get("conclusions") else []),
        (
            f"`{result['command']}` at {result['commit']}, {result['date']}; {result['device']}, "
            f"{result['threads']} threads, torch {result['torch']}; {result['setting']}.\n"
        ),
    ]
    return "\n".join(lines)


def cell(value: object) -> str:
    """A figure with as many digits as it deserves."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main(sys.argv[1:])

"""What a command costs before its work begins, against Python itself and against importing torch;
and the default command beyond its imports."""

import json
import subprocess
import sys
from statistics import median
from typing import Any

from tests.benchmarks.timing import seconds

TITLE = "Start-up and the default command"
ROUNDS = 3


def run() -> dict[str, Any]:
    """Time whole processes."""
    python = [sys.executable, "-c"]
    robustkit = [sys.executable, "-m", "robustkit"]
    imports = "import torch, torchvision, robustkit.evaluation.evasion, robustkit.report.html"
    base = wall([*python, "pass"])
    imported = wall([*python, imports])
    rows: list[dict[str, Any]] = [
        {"command": "python -c pass", "seconds": base, "beyond imports, s": 0.0},
        {"command": "python, importing all of it", "seconds": imported, "beyond imports, s": 0.0},
        {"command": "robustkit --help", "seconds": wall([*robustkit, "--help"])},
        {"command": "robustkit list", "seconds": wall([*robustkit, "list"])},
        {"command": "robustkit evaluate", "seconds": wall([*robustkit, "evaluate"])},
    ]
    for row in rows[2:4]:
        row["beyond imports, s"] = float(row["seconds"]) - base
    rows[4]["beyond imports, s"] = float(rows[4]["seconds"]) - imported
    output = subprocess.run([*robustkit, "evaluate", "--json"], capture_output=True, check=True)
    inside = json.loads(output.stdout)["cost"]["seconds"]
    return {
        "rows": rows,
        "setting": f"median of {ROUNDS}; all passes together take {inside:.2f} s of the last row",
    }


def wall(command: list[str]) -> float:
    """Median wall time of a process."""
    return median(
        seconds(lambda: subprocess.run(command, capture_output=True, check=True))
        for _ in range(ROUNDS)
    )

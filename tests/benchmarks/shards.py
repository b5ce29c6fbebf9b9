"""Two processes against one, each with one thread, on the same examples: from the start of the run
to the last record, taking over included, and the whole commands with imports and report. Flags are
measured by the process that reports, alone."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from tests.cli.conftest import FACTORY
from tests.evaluation.victims import robust_state

TITLE = "Two processes against one"
EXAMPLES = int(os.environ.get("SHARDS_EXAMPLES", "1200"))
ROUNDS = 3
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"]


def run() -> dict[str, Any]:
    """Time both in turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_file(robust_state(), folder / "victim.safetensors")
        (folder / "victim.py").write_text(FACTORY)
        pairs = [
            (
                timed(["-m"], folder, folder / f"1-{number}"),
                timed(TORCHRUN, folder, folder / f"2-{number}"),
            )
            for number in range(ROUNDS)
        ]
    rows = []
    for place, what in enumerate(("attacks, from the first to the last record", "whole command")):
        ones, twos = ([pair[side][place] for pair in pairs] for side in (0, 1))
        rows.append(
            {
                "what": what,
                "one process, s": statistics.median(ones),
                "two processes, s": statistics.median(twos),
                "times as fast": statistics.median(
                    one / two for one, two in zip(ones, twos, strict=True)
                ),
            }
        )
    setting = (
        f"{EXAMPLES} digits, adversarially trained CNN, plan standard, one thread each, median of "
        f"{ROUNDS} rounds"
    )
    return {"rows": rows, "setting": setting}


def timed(launch: list[str], folder: Path, out: Path) -> tuple[float, float]:
    """Seconds that the attacks took, and the whole command."""
    words = f"evaluate --model {folder / 'victim.py'}:make --data digits --split train --eps 0.2"
    command = [sys.executable, *launch, "robustkit", *words.split()]
    command += ["--n", str(EXAMPLES), "--batch-size", "16", "--out", str(out)]
    begun = time.time()
    subprocess.run(
        command,
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    ended = time.time()
    # The first is written when the records begin, the last with every record.
    first, last = ((out / name).stat().st_mtime for name in ("run.json", "records.jsonl"))
    return last - first, ended - begun

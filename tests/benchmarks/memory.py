"""Peak memory of an evaluation against the number of examples, each in a process of its own. The
images are a mapped file, so that they need not be in memory at once. Freed memory is kept, as on
the command line."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

TITLE = "Memory against the number of examples"
SIZES = (500, 2000, 8000)
SCRIPT = """
import resource, sys
from pathlib import Path
import torch
from robustkit import data, evaluate, models
from robustkit.memory import keep_freed
keep_freed()
torch.set_num_threads(2)
images = data.load(sys.argv[1], n=int(sys.argv[2]))
model = models.load("cnn", classes=10, channels=1, size=28)
report = evaluate(model, images, "linf", attacks=["fgsm"], out=Path(sys.argv[3]), batch_size=64)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, report.attacks[0].broken)
"""


def run() -> dict[str, Any]:
    """Peak resident memory at several sizes."""
    rows: list[dict[str, Any]] = []
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.npz"
        images = generator.integers(0, 256, (max(SIZES), 28, 28), dtype=np.uint8)
        np.savez(file, inputs=images, labels=generator.integers(0, 10, max(SIZES)))
        for size in SIZES:
            out = Path(folder) / str(size)
            command = [sys.executable, "-c", SCRIPT, str(file), str(size), str(out)]
            output = subprocess.run(command, capture_output=True, check=True, text=True).stdout
            peak, broken = output.split()
            rows.append({"examples": size, "peak MiB": float(peak), "broken": int(broken)})
    for row in rows:
        row["peak against the first"] = row["peak MiB"] / rows[0]["peak MiB"]
    return {"rows": rows, "setting": "untrained CNN, random 28 x 28 images, FGSM, records on disk"}

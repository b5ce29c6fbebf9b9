"""The transform of CUDA data, 50,000 images of 32 x 32 x 3: one image after the other as published
(a float32 convolution, a copy to NumPy and a write per image; timed on a subsample and
extrapolated), against all of them in mixed batches with exact sums. `differing bytes` are counted
against one exact convolution per image, on the subsample. `share of a copy` is the time of copying
the same bytes, read and written once, over the time of the transform: what is left to win from
memory. Seconds are the process's on a CPU, with one thread, and the clock's on a GPU. Peak memory
is that of a process which reads images from a mapped file, transforms and saves them, without the
pages of that file, which the system takes back when it needs them (Linux)."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from robustkit.unlearnable import Key, class_filters, filtered
from robustkit.unlearnable.filters import ONE

TITLE = "Transform of unlearnable data"
IMAGES = 50_000
# Images on which the loops are run.
FEW = 2_000
ROUNDS = 3
STREAMED = (10_000, 50_000, 200_000)
CLASSES = 10
SCRIPT = """
import sys, threading, time
from pathlib import Path
import torch
from robustkit import data
from robustkit.threat_models import load
from robustkit.training import Trainer
from robustkit.unlearnable import ConvolutionUnlearnable, Key
from robustkit.unlearnable.keys import streams
torch.set_num_threads(1)
most = 0

def watch():
    global most
    while True:
        lines = Path("/proc/self/status").read_text().splitlines()
        most = max(most, *(int(line.split()[1]) for line in lines if line.startswith("RssAnon")))
        time.sleep(0.01)

threading.Thread(target=watch, daemon=True).start()
key = Key(bytes(range(32)))
images = data.load(sys.argv[1], split="train", n=int(sys.argv[2]))
method = ConvolutionUnlearnable(key=key)
drawn = streams(key, 0, images.ids)
made = method.run(images, load("unlearnable"), trainer=Trainer(), streams=drawn)
data.save(made.data, Path(sys.argv[3]))
print(most / 1024)
"""


def run() -> dict[str, Any]:
    """The CPU, the GPU if there is one, and memory when streaming."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = measured()
    finally:
        torch.set_num_threads(threads)
    peaks = streamed()
    told = ", ".join(f"{peak:.0f} MiB for {count:,} images" for count, peak in peaks)
    return {
        "rows": rows,
        "conclusions": [
            f"Peak memory from file to file: {told} ({count_bytes(peaks[-1][0])} MiB of pixels).",
        ],
        "setting": f"random images, kernel 3, {CLASSES} classes, loops on {FEW:,} images, median "
        f"of {ROUNDS} rounds",
    }


def count_bytes(images: int) -> int:
    """MiB of so many images."""
    return images * 3 * 32 * 32 // 2**20


def measured() -> list[dict[str, Any]]:
    """Each way on each device."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (IMAGES, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.arange(IMAGES) % CLASSES
    filters = class_filters(Key(bytes(range(32))), CLASSES, 3, 0.3)
    exact = one_by_one(images[:FEW], labels[:FEW], filters)
    rows = []
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        there = images.to(device), labels.to(device), filters.to(device)
        few = there[0][:FEW], there[1][:FEW], there[2]
        copy = seconds(there[0].clone, device)
        loop = seconds(partial(published, *few), device) * IMAGES / FEW
        ours = seconds(partial(filtered, *there), device)
        found = (
            ("one by one, as published", loop, published(*few)),
            ("in batches, exact", ours, filtered(*few).cpu()),
        )
        rows += [
            {
                "device": device,
                "way": way,
                "seconds": time_,
                "images/s": IMAGES / time_,
                "times faster": loop / time_,
                "differing bytes": int((done != exact).sum()),
                "of": exact.numel(),
                "share of a copy": copy / time_,
            }
            for way, time_, done in found
        ]
    return rows


def published(images: Tensor, labels: Tensor, filters: Tensor) -> Tensor:
    """One image after the other: convolve, divide, copy to the host, write into an array."""
    weights = (filters.double() / ONE).float()
    done = np.empty(tuple(images.shape), dtype=np.uint8)
    for row, label in enumerate(labels.tolist()):
        taps = weights[label].expand(3, 1, 3, 3)
        sums = F.conv2d(images[row : row + 1].float() / 255, taps, padding=1, groups=3)
        levels = (255 * (sums / sums.max())).to(torch.uint8)
        done[row] = levels[0].cpu().numpy()
    return torch.from_numpy(done)


def one_by_one(images: Tensor, labels: Tensor, filters: Tensor) -> Tensor:
    """The same with whole numbers in float64, whose sums are exact in any order."""
    done = []
    for image, label in zip(images, labels.tolist(), strict=True):
        taps = filters[label].double().expand(3, 1, 3, 3)
        sums = F.conv2d(image[None].double(), taps, padding=1, groups=3)
        done.append((255 * sums / sums.max()).floor().to(torch.uint8))
    return torch.cat(done)


def seconds(work: Callable[[], object], device: str) -> float:
    """Median of a few rounds, after one that is not counted."""
    times = []
    for _ in range(ROUNDS + 1):
        start = now(device)
        work()
        times.append(now(device) - start)
    return float(np.median(times[1:]))


def now(device: str) -> float:
    """Seconds."""
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def streamed() -> list[tuple[int, float]]:
    """Peak MiB of its own at several numbers of images, each in a process of its own."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.npz"
        shape = (max(STREAMED), 32, 32, 3)
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        np.savez(file, inputs=images, labels=np.arange(len(images)) % CLASSES)
        del images
        for count in STREAMED:
            out = str(Path(folder) / f"{count}")
            command = [sys.executable, "-c", SCRIPT, str(file), str(count), out]
            done = subprocess.run(command, capture_output=True, check=True, text=True)
            found.append((count, float(done.stdout)))
    return found

"""CGBA against its authors' code and against Foolbox's HopSkipJump: the same images, network and
numbers of queries, each with starts of its own; all queries are charged, those for the start and
for the image's own label included. The distance is l2 in [0, 1], and the best point counts that
is adversarial inside the value range when the network is asked again; the authors' points
outside the range are clipped and judged without charge. Medians are over images, of the mean
over the seeds that both have been run with; the intervals are of paired bootstraps over images
(95 %). The ratio is the geometric mean over images, without the searches in which one of the two
has no valid point; how many have none is beside it, of CGBA and of the peer. Below 1 (and
differences below 0) CGBA is nearer. The authors' code runs with its defaults (steps of 2e-4,
tolerance 1e-4, here in [0, 1]) but for the share of frequencies per axis, a half instead of a
quarter: its defaults are for 224 pixels, and it has no value for 32. Ours chooses frequencies as
it goes; nobody has chosen the best fixed share of theirs for each image and number of queries.
ROBUSTKIT_CGBA names a clone of https://github.com/Farhamdur/CGBA, which is no part of this
project, and ROBUSTKIT_CGBA_SEEDS the seeds (0 if it is not set; none compares what is kept); one
takes an hour on one core. The folder that ROBUSTKIT_BENCHMARKS names keeps what is finished,
image by image. What the peers found is part of this project, since it does not depend on our
code: nobody need run them again for the seeds that are there."""

import functools
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx.experimental import optimization

import robustkit.attacks
from robustkit import data, models
from robustkit.attacks import CGBA
from robustkit.files import write_atomically
from robustkit.randomness import Streams
from robustkit.threat_models import Access, LpBall, Meter, Objective, Output, grant
from tests.benchmarks.foreign_decisions import Account, hop_skip_jump, official_cgba, run_all
from tests.benchmarks.keeping import folder

TITLE = "CGBA against the official code and HopSkipJump"
BUDGETS = (250, 500, 1000, 2000, 5000)
PEERS = {"cgba": "official CGBA", "hsj": "HopSkipJump (Foolbox)"}
# What our figures depend on.
_SOURCES = (
    "cgba",
    "_semicircles",
    "_boundary",
    "_turns",
    "_normals",
    "_starts",
    "_dct",
    "_hunts",
    "_grains",
)

Distances = dict[tuple[int, int], list[float]]
# What the peers found, by seed and image: the distance at each number of queries.
FOUND = Path(__file__).parent / "peers"


def run() -> dict[str, Any]:
    """Each peer at each number of queries."""
    rows: list[dict[str, Any]] = []
    seeds = named_seeds()
    with folder() as kept:
        place = kept / "cgba-reference"
        place.mkdir(parents=True, exist_ok=True)
        for name in ("ours", *PEERS):
            for seed in seeds:
                measure(name, seed, place)
        ours = collected("ours", place)
        for name, title in PEERS.items():
            theirs = collected(name, place)
            if not theirs:
                continue
            remember(name, theirs)
            rows += [
                compared("CGBA", title, number, ours, theirs) for number in range(len(BUDGETS))
            ]
    return {
        "rows": rows,
        "setting": "ResNet-18 on the 20 CIFAR-10 images, the network's batch norms folded in for "
        "the search and not for the judging",
    }


def named_seeds() -> list[int]:
    """Those that ROBUSTKIT_CGBA_SEEDS names."""
    named = os.environ.get("ROBUSTKIT_CGBA_SEEDS", "0")
    return [int(seed) for seed in named.split(",") if seed]


def measure(name: str, seed: int, place: Path) -> None:
    """Run one attack with one seed on the images that have not been kept yet."""
    plain = models.load("builtin:cifar10-resnet18", device="cpu").eval()
    images = data.load("samples:cifar10")
    inputs, labels = images.inputs(slice(None)), images.labels
    with torch.inference_mode():
        right = (plain(inputs).argmax(1) == labels).nonzero()[:, 0].tolist()
    known = {number for of, number in remembered(name) if of == seed}
    missing = [
        number
        for number in right
        if number not in known and not file(name, seed, number, place).exists()
    ]
    if not missing:
        return
    net = optimization.fuse(plain).to(memory_format=torch.channels_last)

    def judge(points: Tensor) -> Tensor:
        with torch.inference_mode():
            answers: Tensor = plain(points).argmax(1)
        return answers

    def finished(number: int, account: Account, error: BaseException | None) -> None:
        found = {
            "queries": account.spent,
            "budgets": BUDGETS,
            "valid": account.confirmed(judge),
            "error": None if error is None else repr(error),
        }
        write_atomically(file(name, seed, number, place), json.dumps(found))

    if name == "ours":
        ours(net, inputs[missing], labels[missing], missing, seed, finished)
        return
    run_all(
        official_cgba() if name == "cgba" else hop_skip_jump(),
        net,
        inputs,
        labels,
        budgets=BUDGETS,
        numbers=missing,
        seed=seed,
        finished=finished,
    )


def ours(
    net: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    numbers: list[int],
    seed: int,
    finished: Callable[[int, Account, BaseException | None], None],
) -> None:
    """All images together; every answer goes into the same accounts as the peers'."""
    accounts = [
        Account(inputs[row : row + 1], int(labels[row]), BUDGETS) for row in range(len(inputs))
    ]

    def observe(asked: Tensor, payers: Tensor, output: Output, _: Tensor) -> None:
        answers = output.logits.argmax(1)
        for row in sorted(set(payers.tolist()) - {-1}):
            mine = payers == row
            accounts[row].charge(asked[mine], answers[mine], _unneeded)

    streams = Streams.of(seed=seed, ids=torch.tensor(numbers))
    meter = Meter(net, streams, width=len(inputs), queries=BUDGETS[-1])
    meter.observer = observe
    view = grant(meter, Access.DECISION)
    ball = LpBall(norm="l2", radius=0.5)
    CGBA().run(view, inputs, Objective(labels), ball, streams=streams)
    for number, account in zip(numbers, accounts, strict=True):
        finished(number, account, None)


def _unneeded(points: Tensor) -> Tensor:
    raise AssertionError("our attack asked about a point outside the value range")


def file(name: str, seed: int, number: int, place: Path) -> Path:
    """Where the figures of one search are kept."""
    return place / f"{version() if name == 'ours' else name}-{seed}-{number}.json"


@functools.cache
def version() -> str:
    """What our own figures are kept under, by the code as it was at first."""
    sources = Path(robustkit.attacks.__file__).parent
    code = b"".join((sources / f"{source}.py").read_bytes() for source in _SOURCES)
    return f"ours-{hashlib.sha256(code).hexdigest()[:12]}"


def collected(name: str, place: Path) -> Distances:
    """(seed, image): the distance at each number of queries; infinite where nothing was valid.

    A best point that does not hold when the network is asked again gives way to the one of fewer
    queries. Runs that were made for fewer queries have fewer entries.
    """
    found = remembered(name)
    for seed in range(100):
        for number in range(20):
            path = file(name, seed, number, place)
            if path.exists():
                table = json.loads(path.read_text(encoding="utf-8"))
                valid = [np.inf if distance is None else distance for distance in table["valid"]]
                found[seed, number] = np.minimum.accumulate(valid).tolist()
    return found


def remembered(name: str) -> Distances:
    """What a peer found before; nothing for our own attack."""
    path = FOUND / f"{name}.json"
    if not path.exists():
        return {}
    table = json.loads(path.read_text(encoding="utf-8"))
    return {
        (int(seed), int(number)): distances
        for seed, images in table.items()
        for number, distances in images.items()
    }


def remember(name: str, found: Distances) -> None:
    """Keep what a peer found."""
    table: dict[str, dict[str, list[float]]] = {}
    for (seed, number), distances in sorted(found.items()):
        table.setdefault(str(seed), {})[str(number)] = distances
    FOUND.mkdir(exist_ok=True)
    (FOUND / f"{name}.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def compared(
    name: str,
    peer: str,
    budget: int,
    ours: Distances,
    theirs: Distances,
    budgets: tuple[int, ...] = BUDGETS,
) -> dict[str, Any]:
    """One of several numbers of queries, on the images and seeds that both have been run with."""
    both = [
        key
        for key, distances in theirs.items()
        if len(distances) > budget and len(ours.get(key, ())) > budget
    ]
    images = sorted({number for _, number in both})
    seeds = sorted({seed for seed, _ in both})
    if not images:
        raise RuntimeError(f"{peer} and {name} have been run on no image alike.")

    def means(found: Distances, keys: list[tuple[int, int]]) -> np.ndarray[Any, Any]:
        of = [[found[key][budget] for key in keys if key[1] == image] for image in images]
        return np.array([np.mean(distances) if distances else np.nan for distances in of])

    mine, other = means(ours, both), means(theirs, both)
    lost = [[key for key in both if np.isinf(found[key][budget])] for found in (ours, theirs)]
    # A quotient needs a valid point of both.
    valid = [key for key in both if key not in lost[0] and key not in lost[1]]
    generator = np.random.default_rng(0)
    picks = generator.integers(0, len(images), (4000, len(images)))
    # The peer's median is infinite only if half of its searches found nothing.
    difference = np.median(mine[picks], 1) - np.median(other[picks], 1)
    ratio = np.log(means(ours, valid) / means(theirs, valid))
    return {
        "peer": peer,
        "queries": budgets[budget],
        "images": len(images),
        "seeds": len(seeds),
        f"{name}, median l2": float(np.median(mine)),
        "peer, median l2": float(np.median(other)),
        "difference": float(np.median(mine) - np.median(other)),
        "95 %": interval(difference),
        "no valid point": f"{len(lost[0])} / {len(lost[1])}",
        "ratio": float(np.exp(np.nanmean(ratio))),
        "95 % ": interval(np.exp(np.nanmean(ratio[picks], 1))),
    }


def interval(values: np.ndarray[Any, Any]) -> str:
    """Where the middle 95 % of bootstrapped values lie."""
    low, high = np.quantile(values, (0.025, 0.975))
    return f"{low:.3g} to {high:.3g}"

"""What the parts of a targeted search are worth: its start, its way back to the boundary, and the
frequencies of its random steps. Each row compares the targeted plan of the threat model
`l2-decision` (CGBA-H from the nearest of the adversary's images, of which only the patches that it
needs are kept, random steps of chosen frequencies) with the same search but for what its name says,
on the same images, targets and seeds. The adversary owns the other images of the target class and
their mirror images; one start is one of them at random, and a whole one is left as it is; both
together are the start of the authors. Every query is charged, those that compare starts included.
The distance is l2 in [0, 1], of the nearest point that was answered as wanted. Medians are over
images, of the mean over seeds; the intervals are of paired bootstraps over images (95 %). The ratio
is the geometric mean over images, without the searches in which one of the two has no valid point;
how many have none is beside it, of the plan and of the other. Below 1 (and for differences below 0)
the plan is nearer. ROBUSTKIT_CGBA_SEEDS names the seeds (0 if it is not set); one takes half an
hour on one core. The folder that ROBUSTKIT_BENCHMARKS names keeps what is finished."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental import optimization

from robustkit import data, models
from robustkit.attacks import CGBA, CGBAH
from robustkit.attacks._semicircles import Semicircles
from robustkit.randomness import Streams
from robustkit.threat_models import Access, LpBall, Meter, Objective, Trace, grant
from tests.benchmarks.cgba import Distances, compared, named_seeds, version
from tests.benchmarks.keeping import folder, kept

TITLE = "CGBA-H, targeted: what each part is worth"
BUDGETS = (100, 250, 500)


@dataclass(frozen=True)
class Arm:
    """One way to search.

    Attributes:
        attack: The attack.
        owned: How many images it may start from; None for all that there are.
    """

    attack: Semicircles
    owned: int | None = None


PLAN = Arm(CGBAH())
OTHERS: Mapping[str, Arm] = {
    "one start at random": Arm(CGBAH(), owned=1),
    "a whole start": Arm(CGBAH(patches=0)),
    "a whole one at random": Arm(CGBAH(patches=0), owned=1),
    "CGBA's way back": Arm(CGBA()),
    "full dimension": Arm(CGBAH(reduction=1)),
}


def run() -> dict[str, Any]:
    """Each other way at each number of queries."""
    seeds = named_seeds()
    with folder() as place:
        plan = measured("plan", PLAN, seeds, place)
        rows = [
            compared("plan", title, number, plan, measured(title, arm, seeds, place), BUDGETS)
            for title, arm in OTHERS.items()
            for number in range(len(BUDGETS))
        ]
    return {
        "rows": rows,
        "setting": "ResNet-18 on the 20 CIFAR-10 images, the network's batch norms folded in",
    }


def measured(title: str, arm: Arm, seeds: list[int], place: Path) -> Distances:
    """(seed, image): the distance at each number of queries."""
    found: Distances = {}
    for seed in seeds:
        depends_on = {"arm": repr(arm), "seed": seed, "code": version(), "budgets": BUDGETS}
        name = f"cgba-targeted-{title.replace(' ', '-')}-{seed}"
        distances = kept(place, name, depends_on, functools.partial(_on_cifar, arm, seed))
        found |= {(seed, number): row for number, row in enumerate(distances)}
    return found


def _on_cifar(arm: Arm, seed: int) -> list[list[float]]:
    plain = models.load("builtin:cifar10-resnet18", device="cpu").eval()
    images = data.load("samples:cifar10")
    net = optimization.fuse(plain).to(memory_format=torch.channels_last)
    return searched(net, images.inputs(slice(None)), arm, seed=seed, budgets=BUDGETS).tolist()


def searched(
    net: nn.Module, inputs: Tensor, arm: Arm, *, seed: int, budgets: tuple[int, ...]
) -> Tensor:
    """(N, B) the distances to targets of other images, once each has spent so many queries.

    Labels are what the network says, so that every image is attacked. The target of an image is the
    label of another one, drawn at random.

    Args:
        net: The network.
        inputs: (N, C, H, W) in [0, 1], all searched together; the adversary owns all of them.
        arm: How to search.
        seed: Of targets and search.
        budgets: Numbers of queries; the last is spent.
    """
    with torch.inference_mode():
        labels = net(inputs).argmax(1).clone()
    streams = Streams.of(seed=seed, ids=torch.arange(len(inputs)))
    targets, starts = owned_by_the_adversary(net, inputs, labels, streams)
    objective = Objective(labels, targets, starts[:, : arm.owned])
    ball = LpBall(norm="l2", radius=0.5)
    meter = Meter(net, streams, width=len(inputs), queries=budgets[-1])
    trace = Trace(inputs, objective, ball)
    meter.observer = trace.observe
    arm.attack.run(grant(meter, Access.DECISION), inputs, objective, ball, streams=streams)
    return trace.smallest(budgets)


def owned_by_the_adversary(
    net: nn.Module, inputs: Tensor, labels: Tensor, streams: Streams
) -> tuple[Tensor, Tensor]:
    """(N,) targets, and (N, S, C, H, W) images of each in random order; NaN where there are few.

    The mirror image of an image belongs to what the network says that it is.
    """
    pool = torch.cat([inputs, inputs.flip(3)])
    with torch.inference_mode():
        said = torch.cat([labels, net(pool[len(inputs) :]).argmax(1)])
    other = streams.fork("target").permutation(len(inputs))
    different = labels[other] != labels[:, None]
    targets = labels[other.gather(1, different.int().argmax(1, keepdim=True))[:, 0]]
    order = streams.fork("owned").permutation(len(pool))
    # Those of the target class first, in their random order.
    of_target = said[order] == targets[:, None]
    first = (~of_target).int().argsort(dim=1, stable=True)
    chosen, there = order.gather(1, first), of_target.gather(1, first)
    most = int(there.sum(1).max())
    starts = torch.where(there[:, :most, None, None, None], pool[chosen[:, :most]], torch.nan)
    return targets, starts

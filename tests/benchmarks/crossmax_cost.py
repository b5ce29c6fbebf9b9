"""What an ensemble costs beside its members asked one after the other, forward alone and with the
gradient of its input, for every rule; and eight members as one vectorised network
(`torch.func.stack_module_state` and `vmap`) beside the loop over them. Times are CPU time of one
batch on one thread;
what counts is the ratio, the median over neighbouring pairs."""

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from robustkit.defenses import CrossMax, Ensemble, MeanLogits, MedianLogits, Vote
from robustkit.models.cnn import CNN
from tests.benchmarks.timing import ratio

TITLE = "CrossMax: what an ensemble costs"
MEMBERS, ROUNDS = 8, 21


def run() -> dict[str, Any]:
    """Every rule beside the members alone, and the vectorised members beside the loop."""
    torch.set_num_threads(1)
    rows = []
    for width, batch in ((8, 64), (8, 8), (32, 8)):
        members = [CNN(channels=1, width=width, seed=seed).eval() for seed in range(MEMBERS)]
        for member in members:
            member.requires_grad_(requires_grad=False)
        inputs = torch.rand(batch, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        where = f"{MEMBERS} CNNs of width {width}, batch {batch}"
        alone = one_by_one(members)
        rules = {
            "CrossMax": CrossMax(),
            "CrossMax, rank 3": CrossMax(rank=3),
            "mean": MeanLogits(),
            "logit median": MedianLogits(),
            "vote": Vote(),
        }
        # What a rule costs depends on the members' answers alone.
        chosen = rules if (width, batch) == (8, 64) else {"CrossMax": CrossMax()}
        for name, rule in chosen.items():
            ensemble = Ensemble(members, rule).eval()
            rows.append(measured(f"{where}: {name}, forward", ensemble, alone, inputs, slope=False))
        crossmax = Ensemble(members, CrossMax()).eval()
        rows.append(measured(f"{where}: CrossMax, gradient", crossmax, alone, inputs, slope=True))
        fused = vectorised(members)
        torch.testing.assert_close(
            fused(inputs), torch.stack(alone(inputs), dim=1).sum(1), atol=1e-4, rtol=1e-4
        )
        for slope in (False, True):
            name = f"{where}: vectorised, {'gradient' if slope else 'forward'}"
            rows.append(measured(name, fused, alone, inputs, slope=slope))
    return {
        "rows": rows,
        "conclusions": conclusions(rows),
        "setting": f"28 x 28 grey images, {ROUNDS} pairs",
    }


def conclusions(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the ratios say."""
    forward = [r["ratio"] for r in rows if "forward" in r["what"] and "vectorised" not in r["what"]]
    fused = [r["ratio"] for r in rows if "vectorised" in r["what"]]
    kept = "the loop is kept" if max(fused) > 1 else "it wins everywhere"
    return [
        f"A forward pass costs {min(forward):.2f} to {max(forward):.2f} times its members alone.",
        f"Vectorised, members take {min(fused):.2f} to {max(fused):.2f} times the loop: {kept}.",
    ]


def one_by_one(members: Sequence[nn.Module]) -> Callable[[Tensor], list[Tensor]]:
    """The members, each asked once."""
    return lambda inputs: [member(inputs) for member in members]


def vectorised(members: Sequence[nn.Module]) -> Callable[[Tensor], Tensor]:
    """The sum of all members' logits, from one vectorised pass."""
    parameters, buffers = stack_module_state(list(members))
    base = copy.deepcopy(members[0]).to("meta")

    def one(own: dict[str, Tensor], kept: dict[str, Tensor], inputs: Tensor) -> Tensor:
        logits: Tensor = functional_call(base, (own, kept), (inputs,))
        return logits

    every = torch.vmap(one, in_dims=(0, 0, None))

    def total(inputs: Tensor) -> Tensor:
        return every(parameters, buffers, inputs).sum(0)

    return total


def measured(
    name: str,
    ours: Callable[[Tensor], Any],
    peer: Callable[[Tensor], list[Tensor]],
    inputs: Tensor,
    *,
    slope: bool,
) -> dict[str, Any]:
    """One row: the time of ours, of the members one by one, and the ratio."""
    mine, theirs, share = ratio(
        lambda: asked(ours, inputs, slope=slope),
        lambda: asked(peer, inputs, slope=slope),
        rounds=ROUNDS,
        clock=time.process_time,
    )
    return {
        "what": name,
        "ms": 1000 * mine,
        "members one by one, ms": 1000 * theirs,
        "ratio": share,
    }


def asked(model: Callable[[Tensor], Any], inputs: Tensor, *, slope: bool) -> None:
    """A forward pass, and the gradient of a sum of its logits if asked for."""
    if not slope:
        with torch.no_grad():
            model(inputs)
        return
    inputs = inputs.detach().requires_grad_()
    found = model(inputs)
    logits = torch.stack(found) if isinstance(found, list) else found
    torch.autograd.grad(logits.logsumexp(-1).sum(), inputs)

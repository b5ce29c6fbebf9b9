"""Everything works on a device that is not the CPU, and gives there what it gives on the CPU.

The device is a make-believe one (`tests.accelerator`) that refuses what a GPU refuses, so that this
is tested where there is no GPU.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustkit import evaluate, registry
from robustkit.attacks import APGD, CGBA, FGSM, FMN, PGD, build
from robustkit.evaluation import nearest
from robustkit.randomness import Streams
from robustkit.threat_models import Budget, LpBall, Meter, Objective, Output, grant, load
from robustkit.threat_models.perturbation import Norm
from robustkit.training import Batch
from robustkit.training.losses import MART, TRADES, FastTraining, Loss, PGDTraining
from tests.accelerator import There, accelerator
from tests.contract.checks import RADII
from tests.contract.test_attacks import NAMES
from tests.evaluation.victims import digits, outcome, threat, victim
from tests.oracles import Network
from tests.training.tiny import L2, LINF

CPU = torch.device("cpu")
SHORT: dict[str, tuple[str, dict[str, str]]] = {
    "apgd": ("apgd", {"steps": "6", "targets": "1"}),
    "cgba": ("cgba", {"queries": "120"}),
    "cgba-h": ("cgba-h", {"queries": "150"}),
    "fmn": ("fmn", {"steps": "5"}),
    "geoda": ("geoda", {"queries": "150", "reduction": "1"}),
    "hop-skip-jump": ("hop-skip-jump", {"queries": "100"}),
    "pgd": ("pgd", {"steps": "4", "restarts": "2", "momentum": "1/2"}),
    "rays": ("rays", {"queries": "60"}),
    "square": ("square", {"queries": "30"}),
    "surfree": ("surfree", {"queries": "100", "reduction": "1"}),
}


def cases() -> Iterator[object]:
    for name in NAMES:
        if name in ("foolbox", "autoattack"):
            continue  # EagerPy takes no tensors of a make-believe device; AutoAttack takes minutes.
        spec, options = SHORT.get(name, (name, {}))
        norms = registry.find("attacks", name).norms
        for norm in norms:
            yield pytest.param(spec, options, norm, id=f"{spec}-{norm}")


@pytest.mark.parametrize("target", [False, True], ids=["untargeted", "targeted"])
@pytest.mark.parametrize(("spec", "options", "norm"), list(cases()))
def test_attacks_find_there_what_they_find_here(
    spec: str, options: dict[str, str], norm: Norm, target: bool
) -> None:
    attack = build(spec, options)
    if target and "targeted" not in attack.goals:
        pytest.skip(f"{spec} has no targeted form")

    def attacked(device: torch.device) -> tuple[Tensor, Tensor]:
        model = Network().to(device)
        clean = torch.rand(3, 3, 7, 5, generator=torch.Generator().manual_seed(1)).to(device)
        labels = model(clean).argmax(1)
        ids = torch.arange(3, device=device)
        streams = Streams.of(seed=3, ids=ids)
        meter = Meter(model, streams, width=4)
        objective = Objective(labels, (labels + 1) % 4 if target else None)
        allowed = LpBall(norm=norm, radius=RADII[norm])
        view = grant(meter, attack.access)
        changed = attack.run(view, clean, objective, allowed, streams=streams)
        return changed, meter.ledger.forward

    agree(attacked)


@pytest.mark.parametrize(
    "loss",
    [
        PGDTraining(threat=LINF, steps=2),
        TRADES(threat=LINF, steps=2),
        MART(threat=L2, steps=2),
        FastTraining(threat=LINF),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_losses_are_there_what_they_are_here(loss: Loss) -> None:
    def trained(device: torch.device) -> tuple[Tensor, ...]:
        model = Network(channels=1).to(device).train()
        inputs = torch.rand(6, 1, 6, 6, generator=torch.Generator().manual_seed(1)).to(device)
        ids = torch.arange(6, device=device)
        batch = Batch(
            inputs=inputs,
            labels=ids % 4,
            ids=ids,
            epoch=0,
            step=0,
            streams=Streams.of(seed=0, ids=ids),
        )
        value = loss(model, batch)
        return (value, *torch.autograd.grad(value, list(model.parameters())))

    agree(trained)


def agree(run: Callable[[torch.device], tuple[Tensor, ...]]) -> None:
    """What a function computes on the other device is there, and bit for bit the CPU's."""
    here = [value.detach() for value in run(CPU)]
    with accelerator() as elsewhere:
        there = [value.detach() for value in run(elsewhere)]
        assert all(isinstance(value, There) for value in there)
        assert all(torch.equal(a.cpu(), b) for a, b in zip(there, here, strict=True))


FEW = dataclasses.replace(load("l2-decision"), budget=Budget(queries=60))
EVALUATIONS: dict[str, dict[str, Any]] = {
    "linf": {
        "threat": threat("linf"),
        "attacks": [FGSM(), APGD(steps=4, targets=2, ranking="nearest")],
    },
    "l2": {"threat": threat("l2"), "attacks": [PGD(steps=4)], "eps_sweep": [0.5]},
    "decisions": {"threat": FEW, "attacks": [CGBA()]},
}


@pytest.mark.parametrize("name", EVALUATIONS)
def test_an_evaluation_reports_there_what_it_reports_here(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Five steps instead of hundreds for the nearest points that decision attacks are held against.
    monkeypatch.setattr(nearest, "FMN", functools.partial(FMN, steps=5))
    here = evaluate(victim(), digits(4), batch_size=4, **EVALUATIONS[name])
    with accelerator() as elsewhere:
        model = victim().to(elsewhere)
        there = evaluate(model, digits(4), batch_size=4, **EVALUATIONS[name])
    assert outcome(there) == outcome(here)
    assert (here.environment.device, there.environment.device) == ("cpu", "meta")


class Jittered(nn.Module):
    """Sees every image through noise, anew for each question."""

    stochastic = True

    def __init__(self) -> None:
        super().__init__()
        self.model = victim()

    def answer(self, inputs: Tensor, *, streams: Streams | None = None) -> Output:
        assert streams is not None
        return Output(self.model(inputs + 0.2 * streams.normal(tuple(inputs.shape[1:]))))

    def forward(self, inputs: Tensor) -> Tensor:
        raise AssertionError


def test_random_models_are_judged_there_as_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("adaptive", "draws"):
        monkeypatch.setattr(f"robustkit.evaluation.{module}.RUNGS", (2, 6))
    attacks = [PGD(steps=2)]
    arguments: dict[str, Any] = {"attacks": attacks, "batch_size": 4}
    here = evaluate(Jittered().eval(), digits(4), threat("linf"), **arguments)
    with accelerator() as elsewhere:
        model = Jittered().eval().to(elsewhere)
        there = evaluate(model, digits(4), threat("linf"), **arguments)
    assert outcome(there) == outcome(here)


MIXED: dict[str, Callable[[Tensor, Tensor], object]] = {
    "sum": lambda here, there: here + there,
    "in place": lambda here, there: here.add_(there),
    "index of the other": lambda here, there: here[there.long()],
    "filled with the other": lambda here, there: there.index_put_((there.long(),), here),
    "joined": lambda here, there: torch.cat([here, there]),
    "added by index": lambda here, there: here.index_add_(0, there.long(), there),
    "compared": lambda here, there: torch.equal(here, there),
    "written out": lambda here, there: there + torch.tensor([1.0, 2.0]),
}
ALLOWED: dict[str, Callable[[Tensor, Tensor], object]] = {
    "a scalar": lambda here, there: there + torch.tensor(2.0),
    "indices of the host": lambda here, there: there[here.long()],
    "a copy": lambda here, there: there.copy_(here),
    "back": lambda here, there: here + there.cpu(),
}


@pytest.mark.parametrize("name", MIXED)
def test_the_other_device_refuses_tensors_of_the_host(name: str) -> None:
    with accelerator() as elsewhere:
        there = torch.zeros(2, device=elsewhere)
        with pytest.raises(RuntimeError, match="same device"):
            MIXED[name](torch.zeros(2), there)


@pytest.mark.parametrize("name", ALLOWED)
def test_the_other_device_takes_what_a_gpu_takes(name: str) -> None:
    with accelerator() as elsewhere:
        assert ALLOWED[name](torch.zeros(2), torch.zeros(2, device=elsewhere)) is not None

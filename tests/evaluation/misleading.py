"""Models that mislead attacks: that mask their gradients, or answer at random; and how to run."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robustkit import evaluate
from robustkit.attacks import FGSM, PGD, EvasionAttack
from robustkit.data import LabelledImages
from robustkit.models.cnn import CNN
from robustkit.randomness import Streams
from robustkit.report import EvasionReport
from robustkit.threat_models import (
    Access,
    Gradients,
    Objective,
    Output,
    PerturbationSet,
)
from tests.evaluation.victims import digits, threat, victim

N, WIDTH = 24, 8
GRADIENT = (FGSM(), PGD(steps=8, loss="margin"))
# Random models: fewer of everything, since every answer is asked for a hundred times.
FEW, STEPS = 12, 3
SHORT = (FGSM(), PGD(steps=STEPS, loss="margin"))


class Mean(nn.Module):
    """The mean logits of several networks."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.stack([member(inputs) for member in self.members]).mean(0)


class Masked(nn.Module):
    """Three networks; rounded logits, so that gradients are exactly zero; names their mean."""

    stochastic = False

    def __init__(self, *, graph: bool = True, named: bool = True) -> None:
        super().__init__()
        self.mean = Mean([victim(), _noisy_copy(1), _noisy_copy(2)])
        self.graph, self.named = graph, named
        self.eval()

    def answer(self, inputs: Tensor, *, streams: Streams | None = None) -> Output:
        return Output(self(inputs))

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.mean(inputs)
        rounded = (4 * logits).round()
        return rounded if self.graph else rounded.detach()

    def surrogates(self) -> dict[str, nn.Module]:
        return {"mean": self.mean} if self.named else {}


def _noisy_copy(seed: int) -> CNN:
    copy = victim()
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=source))
    return copy


class Noisy(nn.Module):
    """Sees its input through noise, anew for each question."""

    stochastic = True

    def __init__(self, spread: float = 0.3, surrogate: nn.Module | None = None) -> None:
        super().__init__()
        self.model = victim()
        self.spread = spread
        self.surrogate = surrogate
        self.asked = 0
        self.eval()

    def answer(self, inputs: Tensor, *, streams: Streams | None = None) -> Output:
        assert streams is not None
        self.asked += len(inputs)
        noise = self.spread * streams.normal(tuple(inputs.shape[1:]))
        return Output(self.model(inputs + noise))

    def forward(self, inputs: Tensor) -> Tensor:
        raise AssertionError

    def surrogates(self) -> dict[str, nn.Module]:
        return {} if self.surrogate is None else {"network": self.surrogate}


class Coin(nn.Module):
    """Answers 0, and 1 for so many of its draws, whatever it sees; every point has its own luck."""

    stochastic = True

    def __init__(self, wrong: float) -> None:
        super().__init__()
        self.wrong = wrong
        self.eval()

    def answer(self, inputs: Tensor, *, streams: Streams | None = None) -> Output:
        assert streams is not None
        luck = inputs.flatten(1).sum(1).detach() * 1000
        toss = (streams.uniform(()) + luck) % 1
        lead = torch.where(toss < self.wrong, 1.0, -1.0) + 0 * inputs.flatten(1).sum(1)
        return Output(torch.stack([-lead, lead], dim=1))


def tossed(n: int) -> LabelledImages:
    images = Streams.of(seed=0, ids=torch.arange(n)).uniform((1, 2, 2))
    return LabelledImages.from_tensors(images, torch.zeros(n, dtype=torch.int64))


@dataclass(frozen=True, kw_only=True)
class Chained(EvasionAttack[Gradients]):
    """Rounds of PGD, each around the result of the one before: out of the set in the end."""

    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"linf"})

    rounds: int = 4

    def run(
        self,
        view: Gradients,
        inputs: Tensor,
        objective: Objective,
        allowed: PerturbationSet,
        *,
        streams: Streams,
    ) -> Tensor:
        changed = inputs
        attack = PGD(steps=3, step_size=1.0, loss="margin")
        for _ in range(self.rounds):
            changed = attack.run(view, changed, objective, allowed, streams=streams)
        return changed


def run(model: nn.Module, **changes: Any) -> EvasionReport:  # noqa: ANN401
    arguments: dict[str, Any] = {
        "data": digits(N),
        "threat": threat(),
        "attacks": GRADIENT,
        "batch_size": WIDTH,
        **changes,
    }
    return evaluate(model, **arguments)


def ways(report: EvasionReport) -> list[str]:
    return list(dict.fromkeys(row.through for row in report.attacks))

"""Which epoch is kept: scores on training examples that are held out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from robustkit.data import LabelledImages
from robustkit.errors import BadInput
from robustkit.threat_models import ThreatModel
from robustkit.training.batch import Batch
from robustkit.training.feeding import Feed
from robustkit.training.losses.adversarial import adversary_of
from robustkit.training.losses.base import held
from robustkit.training.losses.pgd import PGDTraining
from robustkit.training.runtime import Session


class Score(Protocol):
    """Measures a model on held-out examples."""

    @property
    def metric(self) -> str:
        """The name of the value that decides; larger is better."""
        ...

    def __call__(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """(N,) float values of each example, by name; the model is in eval mode."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanAccuracy:
    """The share of right answers."""

    @property
    def metric(self) -> str:
        """`held_out_accuracy`."""
        return "held_out_accuracy"

    def __call__(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """1 where the answer is right."""
        with held(model), torch.no_grad():
            return {self.metric: (model(batch.inputs).argmax(1) == batch.classes).float()}


@dataclass(frozen=True, kw_only=True, slots=True)
class RobustAccuracy:
    """The share of right answers that stand against PGD with the same random starts every time.

    Attributes:
        threat: The adversary; its perturbation set counts.
        steps: Of PGD.

    Raises:
        BadInput: No steps, or a threat model that is not about inputs.
    """

    threat: ThreatModel
    steps: int = 10

    def __post_init__(self) -> None:
        """Refuse what measures nothing."""
        adversary_of(self.threat, type(self).__name__)
        if self.steps < 1:
            raise BadInput(f"The held-out score takes {self.steps} steps; give at least 1 step.")

    @property
    def metric(self) -> str:
        """`held_out_robust_accuracy`."""
        return "held_out_robust_accuracy"

    def __call__(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """1 where the answer is right on the clean and on the changed input; and on the clean."""
        clean = CleanAccuracy()(model, batch)[CleanAccuracy().metric]
        adversary = PGDTraining(threat=self.threat, steps=self.steps, step_size=2.5 / self.steps)
        changed = adversary.craft(model, batch)
        with held(model), torch.no_grad():
            stands = (model(changed).argmax(1) == batch.classes).float()
        return {self.metric: clean * stands, CleanAccuracy().metric: clean}


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Hold some training examples out and keep the weights of the epoch that does best on them.

    Attributes:
        score: What decides.
        n: How many examples, drawn evenly from the classes; never test data.
        every: Epochs between two scores; the last epoch is always scored.
        batch_size: Rows per pass.

    Raises:
        BadInput: A number below 1.

    Reference:
        Rice, Wong, Kolter: Overfitting in adversarially robust deep learning. ICML 2020.
    """

    score: Score = CleanAccuracy()
    n: int = 1024
    every: int = 1
    batch_size: int = 256

    def __post_init__(self) -> None:
        """Refuse numbers that select nothing."""
        if min(self.n, self.every, self.batch_size) < 1:
            raise BadInput(
                f"The selection has n={self.n}, every={self.every}, batch_size={self.batch_size}; "
                "all must be at least 1."
            )

    def split(self, data: LabelledImages, seed: int) -> tuple[LabelledImages, LabelledImages]:
        """What is learnt from, and what is held out.

        Raises:
            BadInput: Nothing would be left to learn from.
        """
        if self.n >= len(data):
            raise BadInput(
                f"{self.n} of {len(data)} training examples were to be held out, which leaves none "
                "to learn from. Hold fewer out."
            )
        out = data.stratified(self.n, seed=seed)
        return data.take(~torch.isin(data.ids, out.ids)), out

    def measure(
        self, model: nn.Module, held_out: LabelledImages, *, seed: int, session: Session
    ) -> dict[str, float]:
        """Mean scores over the held-out examples, the same on every process.

        Args:
            model: The bare model; given back as it was.
            held_out: The examples.
            seed: Of the attack's random starts.
            session: The processes, among which the examples are shared out.
        """
        totals: dict[str, Tensor] = {}
        # A process that has none left takes part in the sum with the first example, at no weight.
        mine = torch.arange(session.rank, len(held_out), session.world)
        weight = float(len(mine) > 0)
        mine = mine if len(mine) else torch.zeros(1, dtype=torch.int64)
        for rows in torch.split(mine, self.batch_size):
            batch = Feed.plain(held_out, rows, seed=seed, purpose="held out", session=session)
            for name, values in self.score(model, batch).items():
                total = weight * values.sum(dtype=torch.float64)
                totals[name] = totals[name] + total if name in totals else total
        stacked = torch.stack(list(totals.values())).to(session.device)
        means = (session.sum(stacked) / len(held_out)).tolist()
        return dict(zip(totals, means, strict=True))

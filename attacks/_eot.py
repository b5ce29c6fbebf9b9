"""Expectation over transformation: an attack that averages over a random model's answers."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from robustkit.attacks._balls import columns
from robustkit.attacks.losses import margin
from robustkit.attacks.rows import Rows
from robustkit.attacks.stepwise import Stepwise
from robustkit.errors import BadInput
from robustkit.threat_models import Gradients, Output, ThreatModel


@dataclass(slots=True)
class Kept:
    """An attack under way and the best point it has tried; everything is row-aligned.

    Attributes:
        inner: The state of the attack.
        best: (N, C, H, W) the best point.
        best_wins: (N,) how many of the draws reached the objective there; -1 before the first.
        best_lead: (N,) the sum of their margins.
        wins: (N,) the same at the point being looked at.
        lead: (N,) likewise.
    """

    inner: Any
    best: Tensor
    best_wins: Tensor
    best_lead: Tensor
    wins: Tensor
    lead: Tensor

    @property
    def rows(self) -> Rows:
        """The examples."""
        rows: Rows = self.inner.rows
        return rows


@dataclass(frozen=True, kw_only=True, slots=True)
class EOT(Stepwise[Kept]):
    """A step-by-step attack on the average of several draws of a random model.

    Gradients are averaged over the draws, each taken of the loss of one answer. A lucky draw ends
    nothing: every attempt makes all its steps, and the result is the tried point at which most
    draws of the model itself reached the objective; among those, the one of the largest mean
    margin.

    Attributes:
        attack: What makes the steps; not one that minimises.
        average: Over how many draws; each costs a query and a gradient.

    Raises:
        BadInput: No draws, or an attack that minimises.

    Reference:
        Athalye, Engstrom, Ilyas, Kwok: Synthesizing robust adversarial examples. ICML 2018.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1"})

    attack: Stepwise[Any]
    average: int = 10

    def __post_init__(self) -> None:
        """Refuse what has no average."""
        if self.average < 1:
            raise BadInput(f"EOT averages over {self.average} draws; it must be at least 1.")
        if self.attack.minimises:
            raise BadInput(f"EOT cannot average {type(self.attack).__name__}, which minimises.")

    @property
    def draws(self) -> int:
        """As chosen."""
        return self.average

    @property
    def attempts(self) -> int:
        """Those of the attack."""
        return self.attack.attempts

    def why_not(self, threat: ThreatModel) -> str | None:
        """The reason why the attack does not fit the threat model; None if it does."""
        return self.attack.why_not(threat)

    def prepare(self, view: Gradients, rows: Rows) -> Rows:
        """As the attack does."""
        return self.attack.prepare(view, rows)

    def begin(self, rows: Rows) -> Kept:
        """The attack's beginning, with nothing seen."""
        zero = torch.zeros_like(rows.index)
        lead = zero.to(rows.clean.dtype)
        return Kept(self.attack.begin(rows), rows.clean, zero - 1, lead, zero, lead)

    def again(self, state: Kept) -> Kept:
        """The attack's next attempt; the best point stays."""
        return dataclasses.replace(state, inner=self.attack.again(state.inner))

    def propose(self, state: Kept) -> Tensor:
        """The attack's point."""
        return self.attack.propose(state.inner)

    def gain(self, state: Kept, logits: Tensor) -> Tensor:
        """The attack's gain on one draw."""
        return self.attack.gain(state.inner, logits)

    def notice(self, state: Kept, output: Output) -> None:
        """Count the draws that reach the objective, and add up the margins."""
        objective = state.rows.objective
        state.wins = state.wins + objective.reached(output).to(state.wins.dtype)
        lead = margin(output.logits.detach(), objective).nan_to_num(nan=-torch.inf)
        state.lead = state.lead + lead.to(state.lead.dtype)

    def wins(self, state: Kept, reached: Tensor) -> Tensor:
        """None: the next draw may say otherwise."""
        return torch.zeros_like(reached)

    def strays(self, state: Kept) -> Tensor | None:
        """The attack's."""
        return self.attack.strays(state.inner)

    def update(self, state: Kept, logits: Tensor, gradient: Tensor) -> Tensor:
        """Keep the point if it is the best so far, and let the attack make its step."""
        point = self.propose(state)
        # Points outside are steps on the way of some attacks.
        inside = state.rows.allowed.contains(state.rows.clean, point)
        same = (state.wins == state.best_wins) & (state.lead > state.best_lead)
        better = inside & ((state.wins > state.best_wins) | same)
        state.best = torch.where(columns(better, point), point, state.best)
        state.best_wins = torch.where(better, state.wins, state.best_wins)
        state.best_lead = torch.where(better, state.lead, state.best_lead)
        state.wins, state.lead = torch.zeros_like(state.wins), torch.zeros_like(state.lead)
        return self.attack.update(state.inner, logits, gradient)

    def result(self, state: Kept) -> Tensor:
        """The best point."""
        return state.best

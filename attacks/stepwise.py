"""Attacks that go step by step, and the one loop that drives them."""

import functools
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from robustkit.attacks.losses import margin
from robustkit.attacks.queued import Found, Queued, Source, penniless
from robustkit.attacks.rows import Rows, join_rows, take_rows
from robustkit.attacks.steps import input_gradient
from robustkit.threat_models import Access, Gradients, Output


class State(Protocol):
    """What a step-by-step attack keeps between steps: a dataclass of row-aligned tensors."""

    @property
    def rows(self) -> Rows:
        """The examples."""
        ...


StateT = TypeVar("StateT", bound=State)


class Stepwise(Queued[Gradients], Generic[StateT]):
    """An attack that alternates between proposing points and seeing their logits and gradients.

    It says nothing about batches: the loop that drives it mixes rows that are at different steps,
    attempts and examples, and lets a row leave at its first success (see `wins`).
    """

    access: ClassVar[Access] = Access.GRADIENT

    @property
    def attempts(self) -> int:
        """How often an example is attacked from the start before it is given up."""
        return 1

    @abstractmethod
    def begin(self, rows: Rows) -> StateT:
        """The state before the first step."""

    @abstractmethod
    def propose(self, state: StateT) -> Tensor:
        """(N, C, H, W) the points to be tried next, inside the allowed set; changes nothing."""

    @abstractmethod
    def gain(self, state: StateT, logits: Tensor) -> Tensor:
        """(N,) what the attack raises, differentiable with respect to `logits`."""

    def notice(self, state: StateT, output: Output) -> None:
        """Take in one answer of the model itself, before `update`; by default nothing.

        Where a stand-in gives the gradient, `update` sees the stand-in's logits.
        """
        return

    @abstractmethod
    def update(self, state: StateT, logits: Tensor, gradient: Tensor) -> Tensor:
        """Take in what was seen at the proposed points, averaged over the draws.

        Returns:
            (N,) bool: the rows that are finished. What `result` gives then is not tried before
            another attempt starts: `update` must have seen it.
        """

    def wins(self, state: StateT, reached: Tensor) -> Tensor:
        """Which of the proposed points end the search of their example.

        By default every point that reaches the objective. An attack says otherwise that looks for
        the nearest such point, or that proposes points outside the set on its way.

        Args:
            state: The state that proposed the points, before `update`.
            reached: (N,) bool: the points that reach the objective.

        Returns:
            (N,) bool.
        """
        return reached

    def strays(self, state: StateT) -> Tensor | None:
        """(N,) bool: proposed points outside the set, whose lead says nothing; None for none."""
        return None

    def result(self, state: StateT) -> Tensor:
        """(N, C, H, W) what the search gives back where it ends without a win.

        By default the next point. Inside the allowed set, unless the attack `minimises`.
        """
        return self.propose(state)

    def again(self, state: StateT) -> StateT:
        """The state before the first step of the next attempt, made from the end of the last."""
        return self.begin(state.rows.next_attempt())

    def search(self, view: Gradients, source: Source, *, width: int, pad: bool) -> Iterator[Found]:
        """Drive the attack over a queue of examples; see `Queued.search`.

        Raises:
            DoesNotFit: No gradient comes back from the model.
        """
        state = _refilled(self, [], source, width, pad=pad)
        # By victim; padding has the last place.
        lead = torch.full((len(view) + 1,), -torch.inf, device=view.spent.device)
        while state is not None:
            inputs = self.propose(state).detach().requires_grad_()
            seen = _look(self, view, state, inputs)
            with torch.no_grad():
                index = state.rows.index
                strays, margins = self.strays(state), seen.lead.to(lead.dtype)
                if strays is not None:
                    margins = margins.masked_fill(strays, -torch.inf)
                lead[index] = torch.fmax(lead[index], margins)
                won = seen.reached if view.exact else _held(view, state, inputs, seen.reached)
                reached = self.wins(state, won)
                done = self.update(state, seen.logits, seen.gradient)
                present = state.rows.index >= 0
                broke = penniless(view, state.rows.index, self.draws)
                leaving = (reached | done | broke) & present
                if not bool(leaving.any()):
                    continue
                over = reached | broke | (state.rows.attempt + 1 >= self.attempts)
                again = leaving & ~over
                out = (leaving & ~again).nonzero()[:, 0]
                if len(out):
                    points = torch.where(
                        _columns(reached[out], inputs), inputs[out], self.result(state)[out]
                    )
                    yield Found(state.rows.index[out], points.detach(), lead[state.rows.index[out]])
                going_on = [take_rows(state, rows) for rows in _where(present & ~leaving)]
                going_on += [self.again(take_rows(state, rows)) for rows in _where(again)]
                state = _refilled(self, going_on, source, width, pad=pad)


@dataclass(frozen=True, slots=True)
class _Seen:
    """One look at the proposed points, averaged over its draws.

    Attributes:
        logits: (N, K) what the attack follows.
        gradient: (N, C, H, W) the slope of its gain.
        lead: (N,) the margin on the model itself.
        reached: (N,) bool: every draw reached the objective.
    """

    logits: Tensor
    gradient: Tensor
    lead: Tensor
    reached: Tensor


def _look(attack: Stepwise[StateT], view: Gradients, state: StateT, inputs: Tensor) -> _Seen:
    total = functools.reduce(_sum, _draws(attack, view, state, inputs))
    if attack.draws == 1:
        return total
    part = 1 / attack.draws
    return _Seen(total.logits * part, total.gradient * part, total.lead * part, total.reached)


def _draws(
    attack: Stepwise[StateT], view: Gradients, state: StateT, inputs: Tensor
) -> Iterator[_Seen]:
    """One answer after the other; where few examples are left, several come from one batch.

    The numbers are the same: an answer depends on how many queries its example has spent.
    """
    width = len(inputs)
    # Padding comes last.
    live = width if attack.draws == 1 else int((state.rows.index >= 0).sum())
    at_once = width // live
    if at_once == 1:
        for _ in range(attack.draws):
            output, seen = _answered(attack, view, state, inputs)
            _notice(attack, state, output)
            yield seen
        return
    places = torch.arange(width, device=inputs.device)
    for first in range(0, attack.draws, at_once):
        copies = min(at_once, attack.draws - first)
        several = take_rows(state, places % live)
        several.rows.index[live * copies :] = -1
        points = inputs.detach()[places % live].requires_grad_()
        output, seen = _answered(attack, view, several, points)
        for copy in range(copies):
            own = places.clamp_max(live - 1) + copy * live
            _notice(attack, state, output.take(own))
            yield take_rows(seen, own)


def _answered(
    attack: Stepwise[StateT], view: Gradients, state: StateT, inputs: Tensor
) -> tuple[Output, _Seen]:
    objective = state.rows.objective
    output = view.answer(inputs, state.rows.index)
    gradient = input_gradient(attack.gain(state, output.guidance), inputs)
    with torch.no_grad():
        lead, reached = margin(output.logits, objective), objective.reached(output)
    return output, _Seen(output.guidance.detach(), gradient, lead, reached)


@torch.no_grad()
def _notice(attack: Stepwise[StateT], state: StateT, output: Output) -> None:
    attack.notice(state, output)


def _held(view: Gradients, state: StateT, inputs: Tensor, reached: Tensor) -> Tensor:
    """(N,) bool: the points that reach the objective in float32 too; each asked about is a query.

    Who cannot pay for the question leaves with the point as it is: the verdict will tell.
    """
    index = state.rows.index
    doubtful = reached & (index >= 0) & ~penniless(view, index, 1)
    for rows in _where(doubtful):
        output = view.answer(inputs[rows].detach(), index[rows])
        holds = state.rows.objective.take(rows).reached(output)
        reached = reached.index_put((rows,), holds)
    return reached


def _sum(one: _Seen, other: _Seen) -> _Seen:
    return _Seen(
        one.logits + other.logits,
        one.gradient + other.gradient,
        one.lead + other.lead,
        one.reached & other.reached,
    )


def _refilled(
    attack: Stepwise[StateT],
    parts: list[StateT],
    source: Source,
    width: int,
    *,
    pad: bool,
) -> StateT | None:
    room = width - sum(len(part.rows.index) for part in parts)
    fresh = source(room) if room else None
    if fresh is not None:
        parts = [*parts, attack.begin(fresh)]
    if not parts:
        return None
    state = join_rows(parts)
    return _padded(state, width) if pad else state


def _padded(state: StateT, width: int) -> StateT:
    count = len(state.rows.index)
    if count == width:
        return state
    numbers = torch.arange(width, device=state.rows.index.device)
    state = take_rows(state, numbers.clamp_max(count - 1))
    state.rows.index[count:] = -1
    return state


def _where(mask: Tensor) -> list[Tensor]:
    """The row numbers of a mask as a list of one vector, or of none if the mask is empty."""
    rows = mask.nonzero()[:, 0]
    return [rows] if len(rows) else []


def _columns(mask: Tensor, like: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (like.ndim - 1))

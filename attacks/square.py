"""Square: random search with square windows, by scores alone."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustkit.attacks._balls import columns
from robustkit.attacks._windows import Bumps, Stripes, Windows
from robustkit.attacks.base import EvasionAttack
from robustkit.attacks.losses import LOSSES, AttackLoss
from robustkit.attacks.rows import check_rows, join_rows, take_rows
from robustkit.errors import BadInput
from robustkit.randomness import Streams
from robustkit.threat_models import Access, Objective, Output, PerturbationSet, Scores

# By query in ten thousand: from which one on the windows' area is halved once more.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@dataclass(slots=True)
class _State:
    """Examples under attack; everything is row-aligned.

    Attributes:
        clean: (N, C, H, W) the inputs before the attack.
        objective: What is wanted of each.
        streams: One random stream per row.
        index: (N,) int64, the row's victim in the view.
        best: Like `clean`: the best point so far.
        loss: (N,) what is raised, at `best`.
        asked: (N,) int64, queries made.
        budget: (N,) int64, queries that may be made.
    """

    clean: Tensor
    objective: Objective
    streams: Streams
    index: Tensor
    best: Tensor
    loss: Tensor
    asked: Tensor
    budget: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Square(EvasionAttack[Scores]):
    """Square attack in linf and l2: changes in random square windows, kept if the loss rises.

    It sees scores and no gradients, so that it is not fooled by masked ones. Every query of an
    example draws a window of its own. An example leaves at its first success.

    Attributes:
        queries: Queries per example; the windows shrink over these, or over what the budget leaves.
        p_init: Share of the image that the first windows cover.
        loss: `margin`, `cross-entropy` or `dlr`.
        votes: Answers to each query's point, for a model that answers at random: most of them must
            reach the goal, and the loss is their mean. Each is a query that the example pays for.

    Raises:
        BadInput: A hyper-parameter that means nothing.

    Reference:
        Andriushchenko, Croce, Flammarion, Hein: Square attack: a query-efficient black-box
        adversarial attack via random search. ECCV 2020. Schedule and l2 windows: as in AutoAttack
        (Croce, Hein, ICML 2020).

    Differs from the reference:
        Every example draws its own windows and signs, where AutoAttack draws one window for the
        whole batch. Windows reach the last row and column. In linf, a window whose change would
        change nothing takes the opposite signs instead of wasting the query. In l2, windows shrink
        to a single pixel in images under 15 pixels. Images that are not square and those under five
        pixels work.
    """

    access: ClassVar[Access] = Access.SCORE
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2"})

    queries: int = 5000
    p_init: float = 0.8
    loss: AttackLoss = "margin"
    votes: int = 1

    def __post_init__(self) -> None:
        """Refuse hyper-parameters that mean nothing."""
        if self.queries < 1:
            raise BadInput(f"Square asks {self.queries} queries; it must be at least 1.")
        if self.votes < 1:
            raise BadInput(f"Square takes {self.votes} votes; it must be at least 1.")
        if not 0 < self.p_init <= 1:
            raise BadInput(f"Square's p_init is {self.p_init}; it must lie in (0, 1].")
        if self.loss not in LOSSES:
            raise BadInput(f"The loss {self.loss!r} is unknown. Use one of: {', '.join(LOSSES)}.")

    def run(
        self,
        view: Scores,
        inputs: Tensor,
        objective: Objective,
        allowed: PerturbationSet,
        *,
        streams: Streams,
    ) -> Tensor:
        """Change inputs so that the objective is reached; see `EvasionAttack.run`."""
        check_rows(inputs, objective, streams)
        changed = inputs.clone()
        left = view.remaining
        budget = torch.full_like(objective.labels, self.queries)
        budget = budget if left is None else budget.minimum(left // self.votes)
        queue = (budget > 0).nonzero()[:, 0]
        everything = _State(
            clean=inputs,
            objective=objective,
            streams=streams,
            index=torch.arange(len(inputs), device=inputs.device),
            best=inputs,
            loss=torch.full(budget.shape, -torch.inf, device=inputs.device),
            asked=torch.zeros_like(budget),
            budget=budget,
        )
        kind = Stripes if allowed.norm == "linf" else Bumps
        windows = kind(inputs, allowed)
        width = view.width or max(len(queue), 1)

        def entering(room: int) -> _State:
            nonlocal queue
            state = take_rows(everything, queue[:room])
            queue = queue[room:]
            state.best = windows.start(state.clean, state.streams.fork("start"))
            return state

        state = entering(width)
        while len(state.index):
            over = self._query(view, state, windows, allowed)
            if not bool(over.any()):
                continue
            ended = over.nonzero()[:, 0]
            changed[state.index[ended]] = state.best[ended]
            state = take_rows(state, (~over).nonzero()[:, 0])
            if len(queue):
                state = join_rows([state, entering(width - len(state.index))])
        return changed

    def _query(
        self, view: Scores, state: _State, windows: Windows, allowed: PerturbationSet
    ) -> Tensor:
        """Ask about one candidate per row and keep it if it is better; the rows that are over."""
        streams = state.streams.fork("window")
        sides = self._sides(state, windows)
        moved = windows.step(state.clean, state.best, sides, streams, state.asked)
        candidate = torch.where(columns(state.asked == 0, moved), state.best, moved)
        candidate = allowed.project(state.clean, candidate)
        reached, loss = self._judged(view, state, candidate)
        better = reached | (loss > state.loss) | (state.asked == 0)
        state.best = torch.where(columns(better, candidate), candidate, state.best)
        state.loss = torch.where(better, loss.nan_to_num(nan=-torch.inf), state.loss)
        state.asked = state.asked + 1
        return reached | (state.asked >= state.budget)

    def _judged(self, view: Scores, state: _State, candidate: Tensor) -> tuple[Tensor, Tensor]:
        """(N,) bool whether most votes reach the goal, and (N,) their mean loss."""
        won, loss = torch.zeros_like(state.asked), torch.zeros_like(state.loss)
        for _ in range(self.votes):
            scores = view.scores(candidate, state.index)
            won = won + state.objective.reached(Output(scores)).to(won.dtype)
            loss = loss + LOSSES[self.loss](scores, state.objective).to(loss.dtype)
        return 2 * won > self.votes, loss / self.votes

    def _sides(self, state: _State, windows: Windows) -> Tensor:
        """(N,) int64: the side of each row's next window, in pixels."""
        # The first query is the start; in ten thousandths of the queries, as the schedule counts.
        number = (state.asked - 1).clamp_min(0) * 10_000 // state.budget
        bounds = torch.tensor(_HALVINGS, device=number.device)
        halvings = torch.searchsorted(bounds, number).double()
        area = self.p_init * 0.5**halvings * windows.height * windows.width
        return windows.fitting(area.sqrt().round().to(torch.int64))

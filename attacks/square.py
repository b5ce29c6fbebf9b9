"""Square: random search with square windows, by scores alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustkit.attacks._balls import columns
from robustkit.attacks._windows import AHEAD, Bumps, Choice, Stripes, Windows
from robustkit.attacks.losses import LOSSES, AttackLoss, margin
from robustkit.attacks.queued import Found, Queued, Source
from robustkit.attacks.rows import Rows, join_rows, take_rows
from robustkit.errors import BadInput
from robustkit.threat_models import Access, Output, Scores


@dataclass(slots=True)
class _State:
    """Examples under attack; everything is row-aligned.

    Attributes:
        rows: The examples.
        best: (N, C, H, W) the best points so far.
        loss: (N,) what is raised, at `best`.
        lead: (N,) the largest margin seen.
        asked: (N,) int64, points asked about.
        budget: (N,) int64, points that may be asked about.
        ahead: The windows of the `AHEAD` queries that these and the last ones are among.
    """

    rows: Rows
    best: Tensor
    loss: Tensor
    lead: Tensor
    asked: Tensor
    budget: Tensor
    ahead: Choice


@dataclass(frozen=True, kw_only=True, slots=True)
class Square(Queued[Scores]):
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

    @property
    def draws(self) -> int:
        """The votes."""
        return self.votes

    def search(
        self,
        view: Scores,
        source: Source,
        *,
        width: int,
        pad: bool,
    ) -> Iterator[Found]:
        """Attack examples as they come; see `Queued.search`."""
        rows = source(width)
        if rows is None:
            return
        kind = Stripes if rows.allowed.norm == "linf" else Bumps
        windows = kind(rows.clean, rows.allowed, share=self.p_init)
        state, number = self._begin(view, rows, windows), 0
        while len(state.asked):
            if number == AHEAD:
                streams = state.rows.streams.fork("window")
                state.ahead, number = windows.choose(streams, state.asked, state.budget), 0
            over = self._query(view, state, windows, state.ahead.of(number))
            number += 1
            if not bool(over.any()):
                continue
            ended = take_rows(state, over.nonzero()[:, 0])
            yield Found(ended.rows.index, ended.best, ended.lead)
            state = take_rows(state, (~over).nonzero()[:, 0])
            rows = source(width - len(state.asked))
            if rows is not None:
                state = join_rows([state, self._begin(view, rows, windows, number)])

    def _begin(self, view: Scores, rows: Rows, windows: Windows, number: int = 0) -> _State:
        """The state before the first query, which is the batch's `number`th of those ahead."""
        zero = torch.zeros_like(rows.index)
        budget = zero + self.queries
        if view.remaining is not None:
            budget = budget.minimum(view.remaining[rows.index] // self.votes)
        best = windows.start(rows.clean, rows.streams.fork("start"))
        unseen = torch.full(zero.shape, -torch.inf, device=zero.device)
        ahead = windows.choose(rows.streams.fork("window"), zero - number, budget)
        return _State(rows, best, unseen, lead=unseen, asked=zero, budget=budget, ahead=ahead)

    def _query(self, view: Scores, state: _State, windows: Windows, choice: Choice) -> Tensor:
        """Ask about one candidate per row and keep it if it is better; the rows that are over."""
        rows = state.rows
        candidate = windows.step(rows.clean, state.best, choice)
        candidate = rows.allowed.project(rows.clean, candidate)
        reached, loss, lead = self._judged(view, rows, candidate)
        better = reached | (loss > state.loss) | (state.asked == 0)
        # Exact at both ends, and cheaper than a choice by row.
        state.best = state.best.lerp(candidate, columns(better, candidate).float())
        state.loss = torch.where(better, loss.nan_to_num(nan=-torch.inf), state.loss)
        state.lead = torch.fmax(state.lead, lead)
        state.asked = state.asked + 1
        return reached | (state.asked >= state.budget)

    def _judged(self, view: Scores, rows: Rows, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N,) bool whether most votes reach the goal, (N,) their mean loss and margin."""
        won = torch.zeros_like(rows.index)
        loss = lead = torch.zeros(won.shape, device=won.device)
        for _ in range(self.votes):
            scores = view.scores(points, rows.index)
            won = won + rows.objective.reached(Output(scores)).to(won.dtype)
            ahead = margin(scores, rows.objective)
            raised = ahead if self.loss == "margin" else LOSSES[self.loss](scores, rows.objective)
            loss, lead = loss + raised.to(loss.dtype), lead + ahead.to(lead.dtype)
        return 2 * won > self.votes, loss / self.votes, lead / self.votes

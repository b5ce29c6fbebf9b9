"""Square: random search with square windows, by scores alone."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustkit.attacks._balls import columns
from robustkit.attacks.base import EvasionAttack, check_rows, join_rows, take_rows
from robustkit.attacks.losses import LOSSES, AttackLoss
from robustkit.attacks.steps import reach
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

    def __post_init__(self) -> None:
        """Refuse hyper-parameters that mean nothing."""
        if self.queries < 1:
            raise BadInput(f"Square asks {self.queries} queries; it must be at least 1.")
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
        budget = budget if left is None else budget.minimum(left)
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
        kind = _Stripes if allowed.norm == "linf" else _Bumps
        windows = kind(inputs, reach(allowed, inputs))
        width = view.width or max(len(queue), 1)

        def entering(room: int) -> _State:
            nonlocal queue
            state = take_rows(everything, queue[:room])
            queue = queue[room:]
            state.best = windows.start(state)
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
        self, view: Scores, state: _State, windows: "_Windows", allowed: PerturbationSet
    ) -> Tensor:
        """Ask about one candidate per row and keep it if it is better; the rows that are over."""
        moved = windows.step(state, self._sides(state, windows))
        candidate = torch.where(columns(state.asked == 0, moved), state.best, moved)
        candidate = allowed.project(state.clean, candidate)
        scores = view.scores(candidate, state.index)
        reached = state.objective.reached(Output(scores))
        loss = LOSSES[self.loss](scores, state.objective).to(state.loss.dtype)
        better = reached | (loss > state.loss) | (state.asked == 0)
        state.best = torch.where(columns(better, candidate), candidate, state.best)
        state.loss = torch.where(better, loss.nan_to_num(nan=-torch.inf), state.loss)
        state.asked = state.asked + 1
        return reached | (state.asked >= state.budget)

    def _sides(self, state: _State, windows: "_Windows") -> Tensor:
        """(N,) int64: the side of each row's next window, in pixels."""
        # The first query is the start; in ten thousandths of the queries, as the schedule counts.
        number = (state.asked - 1).clamp_min(0) * 10_000 // state.budget
        bounds = torch.tensor(_HALVINGS, device=number.device)
        halvings = torch.searchsorted(bounds, number).double()
        area = self.p_init * 0.5**halvings * windows.height * windows.width
        return windows.fitting(area.sqrt().round().to(torch.int64))


class _Windows(ABC):
    """Where and how images of one size are changed.

    Attributes:
        channels: Of the images.
        height: Of the images.
        width: Of the images.
        side: The largest window.
        radius: How far an image may be changed.
    """

    def __init__(self, inputs: Tensor, radius: float) -> None:
        """Args: (N, C, H, W) images, and how far each may be changed."""
        self.channels, self.height, self.width = inputs.shape[1:]
        self.side = min(self.height, self.width)
        self.radius = radius

    def fitting(self, sides: Tensor) -> Tensor:
        """The sides that are possible, nearest to those wanted."""
        return sides.clamp(1, self.side)

    @abstractmethod
    def start(self, state: _State) -> Tensor:
        """Like `state.clean`: the first point, not yet in range."""

    @abstractmethod
    def step(self, state: _State, sides: Tensor) -> Tensor:
        """Like `state.clean`: the best point with one window changed, not yet in range."""

    def within(self, words: Tensor, sides: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A random window in each image: for each pixel its place in it, and whether it is in it.

        Args:
            words: (N, 2) random, uniform on [0, 2**32).
            sides: (N,) of the windows.

        Returns:
            (N, H, 1) rows and (N, 1, W) columns, both int64, and (N, 1, H, W) bool.
        """
        top = (words[:, 0] * (self.height - sides + 1)) >> 32
        left = (words[:, 1] * (self.width - sides + 1)) >> 32
        y = torch.arange(self.height, device=sides.device)[None, :, None] - top[:, None, None]
        x = torch.arange(self.width, device=sides.device)[None, None, :] - left[:, None, None]
        side = sides[:, None, None]
        inside = (y >= 0) & (y < side) & (x >= 0) & (x < side)
        return y, x, inside[:, None]


class _Stripes(_Windows):
    """In linf: vertical stripes, then windows of one colour, always at the ends of the ball."""

    def start(self, state: _State) -> Tensor:
        """Stripes of random signs in each channel."""
        signs = state.streams.fork("start").signs((self.channels, 1, self.width))
        return state.clean + self.radius * signs

    def step(self, state: _State, sides: Tensor) -> Tensor:
        """One window of a random sign in each channel; the opposite ones if nothing changed."""
        # One draw for everything: it costs as much for six numbers as for one.
        words = state.streams.fork("window").bits((2 + self.channels,), draw=state.asked)
        *_, inside = self.within(words, sides)
        change = self.radius * _signs(words[:, 2:, None, None])
        moved = torch.where(inside, state.clean + change, state.best)
        idle = ((moved - state.best).abs() <= 1e-7).flatten(1).all(1)
        other = torch.where(inside, state.clean - change, state.best)
        return torch.where(columns(idle, moved), other, moved)


class _Bumps(_Windows):
    """In l2: pairs of bumps; a window takes the change that another one gives up."""

    def __init__(self, inputs: Tensor, radius: float) -> None:
        """Args: as for all windows."""
        super().__init__(inputs, radius)
        self._bumps = torch.zeros(self.side + 1, self.side, self.side, device=inputs.device)
        for side in range(1, self.side + 1):
            self._bumps[side, :side, :side] = _bump(side, inputs.device)

    def fitting(self, sides: Tensor) -> Tensor:
        """Odd sides of three at least; of one in images so small that three is no detail."""
        least = min(3, max(self.side // 5, 1))
        return (sides.clamp_min(least) // 2 * 2 + 1).clamp_max(self.side)

    def start(self, state: _State) -> Tensor:
        """Tiles of bumps all over the image, with a random sign in each channel."""
        tile = max(self.side // 5, 1)
        down, across = self.height // tile, self.width // tile
        streams = state.streams.fork("start")
        signs = streams.signs((self.channels, down, 1, across, 1))
        upright = streams.fork("turn").signs((1, down, 1, across, 1)) > 0
        bump = self._bumps[tile, :tile, :tile]
        tiles = signs * torch.where(upright, bump[:, None], bump.T[:, None])
        top, left = (self.height - down * tile) // 2, (self.width - across * tile) // 2
        change = torch.zeros_like(state.clean)
        change[:, :, top : top + down * tile, left : left + across * tile] = tiles.reshape(
            len(signs), self.channels, down * tile, across * tile
        )
        return state.clean + self._full(change)

    def step(self, state: _State, sides: Tensor) -> Tensor:
        """A bump on what the first window holds, paid for by the second."""
        words = state.streams.fork("window").bits((5 + self.channels,), draw=state.asked)
        y, x, taking = self.within(words, sides)
        *_, giving = self.within(words[:, 2:], sides)
        change = (state.best - state.clean).double()
        # Per channel: what both windows hold, and a share of what the radius leaves.
        held = _length(change * (taking | giving)).square()
        spare = (self.radius**2 - _length(change, whole=True).square()).clamp_min(0)
        old = change * taking
        bump = self._placed(y, x, sides, upright=words[:, 4] >> 31 > 0) * taking
        bump = bump * _signs(words[:, 5:, None, None]) + old / _length(old).clamp_min(1e-12)
        length = (held + spare / self.channels).sqrt()
        new = bump / _length(bump).clamp_min(1e-12) * length
        return state.clean + self._full(torch.where(taking, new, change * ~giving))

    def _placed(self, y: Tensor, x: Tensor, sides: Tensor, *, upright: Tensor) -> Tensor:
        """(N, 1, H, W) a bump of each row's size at its window, upright or lying."""
        down, across = (place.clamp(0, self.side - 1) for place in (y, x))
        size = sides[:, None, None]
        standing, lying = self._bumps[size, down, across], self._bumps[size, across, down]
        return torch.where(upright[:, None, None], standing, lying)[:, None]

    def _full(self, change: Tensor) -> Tensor:
        """The change in float32, made as long as the radius."""
        scaled = change / _length(change, whole=True).clamp_min(1e-12) * self.radius
        return scaled.to(torch.float32)


def _signs(words: Tensor) -> Tensor:
    """Like `words`, which are uniform on [0, 2**32): -1 or +1."""
    return (words >> 31).to(torch.float32) * 2 - 1


def _length(change: Tensor, *, whole: bool = False) -> Tensor:
    """Euclidean length of each channel, (N, C, 1, 1), or of all of them, (N, 1, 1, 1)."""
    over = (1, 2, 3) if whole else (2, 3)
    length: Tensor = torch.linalg.vector_norm(change, dim=over, keepdim=True, dtype=torch.float64)
    return length


def _bump(side: int, device: torch.device) -> Tensor:
    """(side, side) of Euclidean length one: a hill in the upper half, a valley in the lower."""
    upper = side // 2
    both: Tensor = torch.cat([_hill(upper, side, device), -_hill(side - upper, side, device)])
    bump: Tensor = both / torch.linalg.vector_norm(both)
    return bump


def _hill(height: int, width: int, device: torch.device) -> Tensor:
    """(height, width): falls off from the middle, by the inverse squares of the distance summed."""
    y = (torch.arange(height, device=device) - height // 2).abs()[:, None]
    x = (torch.arange(width, device=device) - width // 2).abs()[None, :]
    rings = max(height, width) // 2 + 1
    falling = 1.0 / torch.arange(1, rings + 1, device=device).square()
    summed = falling.flip(0).cumsum(0).flip(0)
    hill = summed[torch.maximum(y, x).clamp_max(rings - 1)]
    unit: Tensor = hill / torch.linalg.vector_norm(hill).clamp_min(1e-12)
    return unit

"""Where and how random search changes an image: square windows, by norm."""

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from robustkit.attacks._balls import columns
from robustkit.attacks.steps import reach
from robustkit.randomness import Streams
from robustkit.threat_models import PerturbationSet

# By query in ten thousand: from which one on the windows' area is halved once more.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
# So many queries' windows are chosen at once: it costs little more than for one.
AHEAD = 16


@dataclass(frozen=True, slots=True)
class Choice:
    """Random windows and signs, row-aligned; of several queries where N is followed by Q.

    Attributes:
        sides: (N,) int64, of the windows.
        y: (N, K, H, 1) int64, for each row its place in each of K windows.
        x: (N, K, 1, W) int64, likewise for each column.
        down: Like `y`, float32: 1 inside, 0 outside; twice as fast as a mask.
        across: Like `x`, likewise.
        signs: (N, C, 1, 1) float32, -1 or 1 for each channel.
        coin: (N,) int64, 0 or 1.
    """

    sides: Tensor
    y: Tensor
    x: Tensor
    down: Tensor
    across: Tensor
    signs: Tensor
    coin: Tensor

    def of(self, query: int) -> "Choice":
        """One of the queries."""
        return Choice(*(getattr(self, field.name)[:, query] for field in fields(self)))

    @property
    def inside(self) -> Tensor:
        """(N, K, H, W) float32: 1 inside, 0 outside."""
        return self.down * self.across


class Windows(ABC):
    """Where and how images of one size are changed.

    Attributes:
        channels: Of the images.
        height: Of the images.
        width: Of the images.
        side: The largest window.
        allowed: How far an image may be changed, and between which values.
        radius: The same, or how far the values let any image be changed, if that is less.
    """

    # How many windows a query changes.
    per_query: ClassVar[int]

    def __init__(self, inputs: Tensor, allowed: PerturbationSet, *, share: float) -> None:
        """Args: (N, C, H, W) images, what is allowed, and the first windows' share of an image."""
        self.channels, self.height, self.width = inputs.shape[1:]
        self.side = min(self.height, self.width)
        self.allowed, self.radius = allowed, reach(allowed, inputs)
        halvings = torch.arange(len(_HALVINGS) + 1, dtype=torch.float64, device=inputs.device)
        area = share * self.height * self.width * 0.5**halvings
        self._sides = self.fitting(area.sqrt().round().to(torch.int64))
        self._halvings = torch.tensor(_HALVINGS, device=inputs.device)

    def choose(self, streams: Streams, asked: Tensor, budget: Tensor) -> Choice:
        """The windows of the next `AHEAD` queries.

        Args:
            streams: One random stream per row; each query is a draw.
            asked: (N,) int64 queries so far.
            budget: (N,) int64 queries over which the windows shrink.
        """
        each = asked[:, None] + torch.arange(AHEAD, device=asked.device)
        rows = torch.arange(len(asked), device=asked.device).repeat_interleave(AHEAD)
        # Two words for each window, one for the coin, one for each channel.
        first = 2 * self.per_query
        shape = (first + 1 + self.channels,)
        words = streams.take(rows).bits(shape, draw=each.flatten()).reshape(-1, AHEAD, *shape)
        sides = self.sides(each, budget[:, None])
        y, x = self._within(words[..., :first], sides)
        down, across = (((place >= 0) & (place < _planes(sides, 3))).float() for place in (y, x))
        heads = words[..., first:] >> 31
        signs = _planes(heads[..., 1:].float() * 2 - 1, 2)
        return Choice(sides, y, x, down, across, signs, coin=heads[..., 0])

    def sides(self, asked: Tensor, budget: Tensor) -> Tensor:
        """Like `asked`, int64: the sides of the next windows; 0, which changes nothing, at first.

        Args:
            asked: int64 queries so far.
            budget: int64 queries over which the windows shrink, broadcast.
        """
        # In ten thousandths of the queries, as the schedule counts; the first is the start.
        number = (asked - 1) * 10_000 // budget
        return self._sides[torch.searchsorted(self._halvings, number)] * (asked > 0)

    def fitting(self, sides: Tensor) -> Tensor:
        """The sides that are possible, nearest to those wanted."""
        return sides.clamp(1, self.side)

    @abstractmethod
    def start(self, clean: Tensor, streams: Streams) -> Tensor:
        """Like `clean`: the first point, not yet in range."""

    @abstractmethod
    def step(self, clean: Tensor, best: Tensor, choice: Choice) -> Tensor:
        """The best point with one window changed, not yet in range.

        Args:
            clean: (N, C, H, W) the inputs before the attack.
            best: Like `clean`: the best points so far.
            choice: Of one query.

        Returns:
            Like `clean`.
        """

    def _within(self, words: Tensor, sides: Tensor) -> tuple[Tensor, Tensor]:
        """(N, Q, K, H, 1) and (N, Q, K, 1, W) int64: each row's and column's place in the windows.

        Args:
            words: (N, Q, 2 K) random, uniform on [0, 2**32): two for each of K windows.
            sides: (N, Q) of the windows.
        """
        y, x = (
            torch.arange(size, device=sides.device)
            - _planes((words[..., first::2] * (size + 1 - sides[..., None])) >> 32, 1)
            for first, size in ((0, self.height), (1, self.width))
        )
        return y[..., None], x[..., None, :]


class Stripes(Windows):
    """In linf: vertical stripes, then windows of one colour, always at the ends of the ball."""

    per_query = 1

    def start(self, clean: Tensor, streams: Streams) -> Tensor:
        """Stripes of random signs in each channel."""
        signs = streams.signs((self.channels, 1, self.width))
        return clean + self.radius * signs

    def step(self, clean: Tensor, best: Tensor, choice: Choice) -> Tensor:
        """One window of a random sign in each channel; the opposite ones if nothing changed."""
        change, inside = self.radius * choice.signs, choice.inside
        boxed = (clean + change).clamp_(self.allowed.low, self.allowed.high)
        idle = boxed.sub_(best).abs_().mul_(inside).flatten(1).amax(1) <= 1e-7
        change = torch.where(columns(idle, change), -change, change)
        # Exact at both ends.
        return best.lerp(clean + change, inside)


class Bumps(Windows):
    """In l2: pairs of bumps; a window takes the change that another one gives up."""

    per_query = 2

    def __init__(self, inputs: Tensor, allowed: PerturbationSet, *, share: float) -> None:
        """Args: as for all windows."""
        super().__init__(inputs, allowed, share=share)
        self._bumps = _bumps_up_to(self.side, inputs.device)

    def fitting(self, sides: Tensor) -> Tensor:
        """Odd sides of three at least; of one in images so small that three is no detail."""
        least = min(3, max(self.side // 5, 1))
        return (sides.clamp_min(least) // 2 * 2 + 1).clamp_max(self.side)

    def start(self, clean: Tensor, streams: Streams) -> Tensor:
        """Tiles of bumps all over the image, with a random sign in each channel."""
        tile = max(self.side // 5, 1)
        down, across = self.height // tile, self.width // tile
        signs = streams.signs((self.channels, down, 1, across, 1))
        upright = streams.fork("turn").signs((1, down, 1, across, 1)) > 0
        bump = self._bumps[1, tile, :tile, :tile]
        tiles = signs * torch.where(upright, bump[:, None], bump.T[:, None])
        top, left = (self.height - down * tile) // 2, (self.width - across * tile) // 2
        change = torch.zeros_like(clean)
        change[:, :, top : top + down * tile, left : left + across * tile] = tiles.reshape(
            len(signs), self.channels, down * tile, across * tile
        )
        return clean + self._full(change)

    def step(self, clean: Tensor, best: Tensor, choice: Choice) -> Tensor:
        """A bump on what the first window holds, paid for by the second."""
        inside = choice.inside
        taking, giving = inside[:, :1], inside[:, 1:]
        change = best - clean
        held, old = change * taking.maximum(giving), change * taking
        # Per channel: what both windows hold, and a share of what the radius leaves.
        spare = (self.radius**2 - _length(change, whole=True).square()).clamp_min(0)
        length = (_length(held).square() + spare / self.channels).sqrt()
        bump = self._placed(choice).mul_(taking) * choice.signs
        bump.addcdiv_(old, _length(old).clamp_min(1e-12).float())
        bump.mul_((length / _length(bump).clamp_min(1e-12)).float())
        # Together as long as the radius: what they held, and all that was left.
        return bump.add_(change.sub_(held)).add_(clean)

    def _placed(self, choice: Choice) -> Tensor:
        """(N, 1, H, W) a bump of each row's size at its first window, upright if the coin is 1."""
        down, across = (place[:, :1].clamp(0, self.side - 1) for place in (choice.y, choice.x))
        which = columns(choice.coin * (self.side + 1) + choice.sides, down)
        return self._bumps.take((which * self.side + down) * self.side + across)

    def _full(self, change: Tensor) -> Tensor:
        """The change itself, made as long as the radius."""
        factor = self.radius / _length(change, whole=True).clamp_min(1e-12)
        return change.mul_(factor.float())


def _planes(values: Tensor, axes: int) -> Tensor:
    """The values with so many axes of one behind them."""
    return values[(..., *[None] * axes)]


def _length(change: Tensor, *, whole: bool = False) -> Tensor:
    """Euclidean length of each channel, (N, C, 1, 1), or of all of them, (N, 1, 1, 1)."""
    over = (1, 2, 3) if whole else (2, 3)
    length: Tensor = torch.linalg.vector_norm(change, dim=over, keepdim=True, dtype=torch.float64)
    return length


@functools.lru_cache(maxsize=8)
def _bumps_up_to(largest: int, device: torch.device) -> Tensor:
    """(2, largest + 1, largest, largest) lying and upright ones by their side, shared by all."""
    upright = torch.zeros(largest + 1, largest, largest, device=device)
    for side in range(1, largest + 1):
        upright[side, :side, :side] = bump_of(side, device)
    return torch.stack([upright.mT, upright])


def bump_of(side: int, device: torch.device) -> Tensor:
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

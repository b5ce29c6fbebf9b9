"""One random stream per example, on the device, without global state.

A number is a pure function of (seed, purpose, example id, lane, draw, position). Order, neighbours,
batch size, shard and resume can therefore not change it.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustkit.errors import ShapeMismatch

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

_Words = TypeVar("_Words", Tensor, NDArray[np.int64])


@dataclass(frozen=True, slots=True)
class Streams:
    """A row-aligned set of random streams.

    Every method takes `draw`, an integer or an (N,) tensor of integers: the number of the draw in
    its stream. The same draw gives the same numbers again; nothing advances by itself.

    Attributes:
        key: What seed and purposes have been hashed to.
        ids: (N,) int64 example ids in [0, 2**32).
        lanes: (N,) int64 in [0, 2**32): which attempt (restart, target) of the example is drawing.

    Reference:
        Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3. SC 2011
        (Philox4x32-10).

    Example:
        >>> streams = Streams.of(seed=0, ids=torch.arange(3))
        >>> noise = streams.fork("start").uniform((3, 32, 32))
        >>> torch.equal(noise[1:2], streams.take([1]).fork("start").uniform((3, 32, 32)))
        True
    """

    key: int
    ids: Tensor
    lanes: Tensor

    @classmethod
    def of(cls, *, seed: int, ids: Tensor, purpose: str = "") -> "Streams":
        """The streams of the examples `ids` under `seed`."""
        if ids.ndim != 1 or ids.dtype != torch.int64:
            raise ShapeMismatch(
                f"Example ids are one-dimensional int64, not {ids.dtype} {tuple(ids.shape)}."
            )
        return cls(_hash(str(seed), purpose), ids, torch.zeros_like(ids))

    def __len__(self) -> int:
        """How many examples draw."""
        return len(self.ids)

    def fork(self, purpose: str) -> "Streams":
        """Independent streams of the same examples for another purpose."""
        return Streams(_hash(str(self.key), purpose), self.ids, self.lanes)

    def take(self, rows: Tensor | list[int]) -> "Streams":
        """The streams of some rows."""
        return Streams(self.key, self.ids[rows], self.lanes[rows])

    def on_lanes(self, lanes: Tensor | int) -> "Streams":
        """Independent streams of the same examples for another attempt; scalar or (N,)."""
        return Streams(self.key, self.ids, torch.zeros_like(self.ids) + lanes)

    def bits(self, shape: tuple[int, ...], *, draw: Tensor | int = 0) -> Tensor:
        """(N, *shape) int64, uniform on [0, 2**32)."""
        size = math.prod(shape)
        block = torch.arange((size + 3) // 4, device=self.ids.device)
        each = torch.zeros_like(self.ids) + draw
        counter = block[None, :], each[:, None], self.ids[:, None], self.lanes[:, None]
        words = _philox(counter, (self.key & _MASK, self.key >> 32))
        return torch.stack(words, dim=-1).flatten(1)[:, :size].reshape(len(self), *shape)

    def uniform(
        self, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0, *, draw: Tensor | int = 0
    ) -> Tensor:
        """(N, *shape) float32, uniform on [low, high)."""
        numbers = (self.bits(shape, draw=draw) >> 8).to(torch.float32) * (
            (high - low) / 2**24
        ) + low
        # Far from zero the sum can round up to the end that is not included.
        return numbers.clamp_max(float(np.nextafter(np.float32(high), np.float32(-np.inf))))

    def normal(self, shape: tuple[int, ...], *, draw: Tensor | int = 0) -> Tensor:
        """(N, *shape) float32, standard normal (Box-Muller)."""
        size = math.prod(shape)
        half = (size + 1) // 2
        both = self.bits((2, half), draw=draw)
        # The half step keeps the logarithm away from zero and the tails symmetric.
        radius = torch.sqrt(-2.0 * torch.log((both[:, 0].to(torch.float32) + 0.5) / 2**32))
        angle = both[:, 1].to(torch.float32) * (2 * math.pi / 2**32)
        pair = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
        return pair[:, :size].reshape(len(self), *shape)

    def signs(self, shape: tuple[int, ...], *, draw: Tensor | int = 0) -> Tensor:
        """(N, *shape) float32, -1 or +1 with equal probability."""
        return (self.bits(shape, draw=draw) >> 31).to(torch.float32) * 2 - 1

    def integers(
        self, high: Tensor | int, shape: tuple[int, ...] = (), *, draw: Tensor | int = 0
    ) -> Tensor:
        """(N, *shape) int64, uniform on [0, high); `high` at most 2**31, broadcastable."""
        return (self.bits(shape, draw=draw) * high) >> 32

    def permutation(self, size: int, *, draw: Tensor | int = 0) -> Tensor:
        """(N, size) int64, a random order of range(size) for each row."""
        # Ties of 32-bit keys are broken by position: a bias below size**2 / 2**33.
        return torch.argsort(self.bits((size,), draw=draw), dim=1, stable=True)


def seed_generators(seed: int, device: torch.device | None = None) -> None:
    """Have torch's global generators of the CPU and of a `device` start from `seed`.

    For code that draws from nothing else; to be called within `torch.random.fork_rng`.
    `torch.manual_seed` would also seed devices that are neither used nor restored, and takes a
    quarter of a millisecond.
    """
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def _hash(*parts: str) -> int:
    digest = hashlib.blake2b("\x1f".join(parts).encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


def _philox(counter: Sequence[Tensor], key: tuple[int, int]) -> list[Tensor]:
    """Philox4x32-10 on 32-bit words held in int64, broadcast over the counter's shapes."""
    if counter[0].device.type != "cpu":
        return _rounds(counter, key)
    # The same operations on the same memory; NumPy's cost a half and less.
    words = _rounds([word.numpy() for word in counter], key)
    return [torch.from_numpy(word) for word in words]


def _rounds(counter: Sequence[_Words], key: tuple[int, int]) -> list[_Words]:
    c0, c1, c2, c3 = (word & _MASK for word in counter)
    k0, k1 = key
    for _ in range(_ROUNDS):
        # Products wrap modulo 2**64; their high bits go in the mask of the next round.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = _mixed(p1, c1, k0), p1, _mixed(p0, c3, k1), p0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return [c0, c1 & _MASK, c2, c3 & _MASK]


def _mixed(product: _Words, word: _Words, key: int) -> _Words:
    """The low 32 bits of (product >> 32) ^ word ^ key."""
    high = (product >> 32) ^ word
    high ^= key
    high &= _MASK
    return high

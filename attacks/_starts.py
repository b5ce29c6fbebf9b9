"""Where attacks on labels start: the adversary's own images, or noise."""

import math

import torch
from torch import Tensor

from robustkit.attacks._boundary import Hunt, Steps, columns
from robustkit.attacks._dct import dimensions, mixed_noise
from robustkit.errors import DoesNotFit
from robustkit.randomness import Streams
from robustkit.threat_models import PerturbationSet


def check_range(allowed: PerturbationSet) -> None:
    """Refuse a value range without ends, in which no random image can be drawn.

    Raises:
        DoesNotFit: It has none.
    """
    if not allowed.high - allowed.low < float("inf"):
        raise DoesNotFit(
            f"Attacks on labels start from random images and need a finite value range, not "
            f"[{allowed.low}, {allowed.high}]."
        )


# How much nearer a further candidate must be, and how often a good one is halved at once.
_NEARER = 0.9
_HALVINGS = 3
# Noise is by turns of single pixels and of larger and larger blobs.
_REDUCTIONS = (1, 2, 4, 8)


def find_starts(hunt: Hunt, *, tries: int, better: int) -> Steps[None]:
    """Give every victim a point that reaches its objective, if one is found.

    First the clean input is asked about: where that reaches the objective already, nothing is to be
    done. Then images that the adversary owns (`Objective.starts`), or random ones of growing size,
    until one reaches the objective. A further candidate costs one question: it is looked at only
    where it would be nearer than the best one so far, and is taken up if it reaches the objective
    there.

    Args:
        hunt: The account.
        tries: Random images at most until the first success.
        better: Candidates looked at after the first success.
    """
    everyone = (hunt.left > 0).nonzero()[:, 0]
    yield from hunt.try_out(hunt.clean[everyone], everyone)
    starts = _Starts(hunt, tries, better)
    while len(rows := starts.unfinished()):
        won = yield from hunt.try_out(starts.propose(rows), rows)
        starts.learn(rows, won)


class _Starts:
    """The candidates of all victims, each of whom is at another one.

    They are numbered: first the adversary's own images, then random ones until the first success,
    then, where the adversary owns none, further random directions.

    Attributes:
        number: (N,) int64, the candidate that each looks at.
        halvings: (N,) int64, how often a good one is still halved.
        ends: (N, C, H, W) the candidates themselves.
        at: (N,) float64, which place on the line to the candidate is asked about.
        good: (N,) float64, where on this line the objective was reached.
        bad: (N,) float64, where it is taken not to be.
    """

    def __init__(self, hunt: Hunt, tries: int, better: int) -> None:
        """Args: as for `find_starts`."""
        own = hunt.objective.starts
        if own is None:
            own = hunt.clean.new_zeros(len(hunt.clean), 0, *hunt.clean.shape[1:])
        self._hunt, self._own, self._streams = hunt, own, hunt.streams.fork("start")
        self._there = own.isfinite().flatten(2).all(2)
        self._owned = own.shape[1]
        self._tries, self._tried = tries, self._owned + tries
        self._all = self._tried + (0 if self._owned else better)
        self.number = torch.zeros_like(hunt.left)
        self.halvings = torch.zeros_like(hunt.left)
        self.ends = hunt.clean.clone()
        self.at = torch.zeros_like(hunt.distance)
        self.good, self.bad = self.at.clone(), self.at.clone()
        self._skip()

    def unfinished(self) -> Tensor:
        """(M,) the victims that have another question and can pay for it."""
        more = self.number < self._all
        return (more & (self._hunt.distance > 0) & (self._hunt.left > 0)).nonzero()[:, 0]

    def propose(self, rows: Tensor) -> Tensor:
        """(M, C, H, W) what `rows` ask about: candidates, or nearer places on the lines to them."""
        hunt = self._hunt
        fresh = rows[self.halvings[rows] == 0]
        self._draw(fresh)
        length = hunt.allowed.distance(hunt.clean[fresh], self.ends[fresh]).clamp_min(1e-300)
        best = hunt.distance[fresh]
        nearer = _NEARER * best / length
        # Beyond an image of its own the adversary has no reason to hope.
        nearer = torch.where(self.number[fresh] < self._owned, nearer.clamp_max(1), nearer)
        self.good[fresh] = torch.where(best.isfinite(), nearer, 1.0)
        self.bad[fresh] = 0
        self.at[rows] = (self.good[rows] + self.bad[rows]) / 2
        self.at[fresh] = self.good[fresh]
        clean = hunt.clean[rows]
        change = columns(self.at[rows]).to(clean.dtype) * (self.ends[rows] - clean)
        return hunt.boxed(clean + change)

    def learn(self, rows: Tensor, won: Tensor) -> None:
        """Take in the answers, and go on to the next questions."""
        number, halvings = self.number[rows], self.halvings[rows]
        fresh = halvings == 0
        self.good[rows] = torch.where(won, self.at[rows], self.good[rows])
        self.bad[rows] = torch.where(won | fresh, self.bad[rows], self.at[rows])
        random = (number >= self._owned) & (number < self._tried)
        more = torch.where(won & ~random, _HALVINGS, 0)
        self.halvings[rows] = torch.where(fresh, more, halvings - 1)
        self.number[rows] += self.halvings[rows] == 0
        self._skip()

    def _skip(self) -> None:
        """Pass over candidates that are not there or not needed any more."""
        for number in range(self._owned):
            self.number += (self.number == number) & ~self._there[:, number]
        found = self._hunt.distance.isfinite()
        tried = self.number >= self._owned
        self.number[tried & found] = self.number[tried & found].clamp_min(self._tried)
        self.number[~found & (self.number >= self._tried)] = self._all

    def _draw(self, rows: Tensor) -> None:
        """The candidates of `rows`."""
        hunt, number = self._hunt, self.number[rows]
        own = number < self._owned
        mine = rows[own]
        self.ends[mine] = self._own[mine, number[own]].to(self.ends.dtype)
        rows, number = rows[~own], number[~own] - self._owned
        if not len(rows):
            return
        # From faint noise to images that are nothing but noise.
        span = hunt.allowed.high - hunt.allowed.low
        size = torch.where(number < self._tries, 2 * span / self._tries * (number + 1), 1.0)
        noise = _noise(hunt, self._streams.take(rows), number)
        self.ends[rows] = hunt.clean[rows] + columns(size).to(noise.dtype) * noise


def _noise(hunt: Hunt, streams: Streams, number: Tensor) -> Tensor:
    """(M, C, H, W) noise of root mean square one, for the numbers of (M,) candidates."""
    shape = tuple(hunt.clean.shape[1:])
    kinds = number % len(_REDUCTIONS)
    noise = mixed_noise(streams, shape, _REDUCTIONS, kinds, draw=number, width=hunt.width)
    size = torch.tensor([dimensions(shape, reduction) for reduction in _REDUCTIONS])
    factor = (math.prod(shape) / size).sqrt().to(noise)[kinds]
    return noise * columns(factor)

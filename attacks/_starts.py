"""Where attacks on labels start: the adversary's own images, or noise."""

import math

import torch
from torch import Tensor

from robustkit.attacks._boundary import Hunt, smooth_noise
from robustkit.attacks._dct import dimensions
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


def find_starts(hunt: Hunt, *, tries: int, better: int) -> None:
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
    if len(everyone):
        hunt.try_out(hunt.clean[everyone], everyone)
    own = hunt.objective.starts
    if own is not None:
        for number in range(own.shape[1]):
            _candidate(hunt, own[:, number], own[:, number].isfinite().flatten(1).all(1))
    streams = hunt.streams.fork("start")
    for number in range(tries):
        waiting = hunt.distance.isinf() & (hunt.left > 0)
        if not bool(waiting.any()):
            break
        rows = waiting.nonzero()[:, 0]
        noise = _noise(hunt, streams, rows, number)
        size = (number + 1) / tries
        # From faint noise to images that are nothing but noise.
        span = hunt.allowed.high - hunt.allowed.low
        hunt.try_out(hunt.boxed(hunt.clean[rows] + 2 * size * span * noise), rows)
    if own is not None:
        return
    for number in range(tries, tries + better):
        rows = hunt.started()
        if not len(rows):
            break
        ends = hunt.clean.clone()
        ends[rows] = hunt.clean[rows] + _noise(hunt, streams, rows, number)
        there = torch.zeros_like(hunt.distance, dtype=torch.bool).index_fill_(0, rows, 1)
        _candidate(hunt, ends, there)


def _noise(hunt: Hunt, streams: Streams, rows: Tensor, number: int) -> Tensor:
    """Noise of root mean square one: by turns of single pixels and of larger and larger blobs."""
    shape = tuple(hunt.clean.shape[1:])
    reduction = (1, 2, 4, 8)[number % 4]
    draw = torch.full_like(rows, number)
    noise = smooth_noise(streams.take(rows), shape, reduction, draw=draw, width=hunt.width)
    size = shape[0] * shape[1] * shape[2]
    return noise * math.sqrt(size / dimensions(shape, reduction))


# How much nearer a further candidate must be, and how often a good one is halved at once.
_NEARER = 0.9
_HALVINGS = 3


def _candidate(hunt: Hunt, ends: Tensor, there: Tensor) -> None:
    """Ask about the direction of `ends`, at most at a little less than the best distance so far."""
    unfinished = (hunt.distance > 0) & (hunt.left > 0)
    rows = (there & unfinished).nonzero()[:, 0]
    if not len(rows):
        return
    goal = ends[rows]
    length = hunt.allowed.distance(hunt.clean[rows], goal).clamp_min(1e-300)
    first = hunt.distance[rows].isinf()
    at = torch.where(first, 1.0, _NEARER * hunt.distance[rows] / length)
    path = hunt.on_segment(rows, goal)
    everywhere = torch.arange(len(rows), device=rows.device)
    won = hunt.try_out(path(everywhere, at), rows)
    good = won.nonzero()[:, 0]
    if not len(good):
        return
    hunt.bisect(
        rows[good],
        lambda places, at: path(good[places], at),
        good=at[good],
        bad=at[good] * 0,
        gap=at[good] * 0,
        rounds=_HALVINGS,
    )

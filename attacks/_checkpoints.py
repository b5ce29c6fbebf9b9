"""What Auto-PGD knows of each example, and how it chooses the steps by it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from robustkit.attacks.rows import Rows

# In linf and l2: the first stretch between two checkpoints, by how much the next ones are shorter,
# and the shortest, as shares of the steps.
_FIRST, _SHORTER, _SHORTEST = 0.22, 0.03, 0.06
# In l1: the stretches, the share of values that the first steps move, by which factor later steps
# move fewer values than have been changed, by which they become shorter, and by which at most.
_STRETCH, _DENSITY, _THINNER, _SLOWER, _SLOWEST = 0.04, 0.2, 1.5, 1.5, 10
# In l1: the share of the changed values that must be left for their number to count as fallen.
_FEWER = 0.95
# The share of the lead at the outset that may be missing in the end in an attempt that goes on.
_CLOSE = 0.05


@dataclass(slots=True)
class Run:
    """Where each example stands; everything is row-aligned.

    `step` and what follows it refer to the present stage.

    Attributes:
        rows: The examples.
        ranking: (N, targets) the wrong classes by the clean answer; -1 until it is known.
        stage: (N,) how many wide balls lie behind.
        point: (N, C, H, W) what is tried next.
        previous: Like `point`: what was tried last.
        best: Like `point`: where the loss was highest.
        best_gradient: Like `point`: the gradient there.
        best_loss: (N,) the loss there.
        loss: (N,) the loss at `previous`.
        step: (N,) steps taken.
        since: (N,) points seen since the last checkpoint.
        rises: (N,) how often the loss rose since then.
        stretch: (N,) points from the last checkpoint to the next.
        reached_loss: (N,) the highest loss up to the last checkpoint.
        shortened: (N,) bool, whether the last checkpoint made the steps shorter.
        length: (N,) float64, the length of the next step.
        density: (N,) the share of values that the next step moves, in l1.
        support: (N,) how many values `best` had changed at the last checkpoint, in l1.
        outset: (N,) the margin at the first point.
        lead: (N,) the largest margin so far.
        lead_before: (N,) the same when it was last looked at.
    """

    rows: Rows
    ranking: Tensor
    stage: Tensor
    point: Tensor
    previous: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    loss: Tensor
    step: Tensor
    since: Tensor
    rises: Tensor
    stretch: Tensor
    reached_loss: Tensor
    shortened: Tensor
    length: Tensor
    density: Tensor
    support: Tensor
    outset: Tensor
    lead: Tensor
    lead_before: Tensor


def first_stretch(planned: Tensor, norm: str) -> Tensor:
    """(N,) int64: the points before the first checkpoint, of (N,) planned steps."""
    share = _STRETCH if norm == "l1" else _FIRST
    return (planned.double() * share).to(torch.int64).clamp_min(1)


def halve(state: Run, due: Tensor, *, steps: int, rho: float) -> Tensor:
    """In linf and l2, halve the step where the loss rose too seldom or stands still.

    Args:
        state: Is changed where a checkpoint is due.
        due: (N,) bool.
        steps: Steps of an attempt.
        rho: The share of steps that must raise the loss.

    Returns:
        (N,) bool: the rows that go on from their best point.
    """
    seldom = state.rises <= rho * state.stretch
    stands = ~state.shortened & (state.reached_loss >= state.best_loss)
    halved = due & (seldom | stands)
    state.length = torch.where(halved, state.length / 2, state.length)
    state.shortened = torch.where(due, halved, state.shortened)
    state.reached_loss = torch.where(due, state.best_loss, state.reached_loss)
    shorter, shortest = (max(int(share * steps), 1) for share in (_SHORTER, _SHORTEST))
    stretch = (state.stretch - shorter).clamp_min(shortest)
    state.stretch = torch.where(due, stretch, state.stretch)
    return halved


def first_density(state: Run, fresh: Tensor, *, known: bool) -> None:
    """In l1, how many values the first steps move: as many as the start calls for, if `known`."""
    if known:
        _set_density(state, fresh, _support(state.point, state.rows.clean))
    else:
        size = state.point[0].numel()
        state.density = torch.where(fresh, _DENSITY, state.density)
        state.support = torch.where(fresh, size, state.support)


def thin_out(state: Run, due: Tensor, longest: Tensor) -> Tensor:
    """In l1, begin anew with long steps where the best point has become sparser.

    Args:
        state: Is changed where a checkpoint is due.
        due: (N,) bool.
        longest: (N,) float64, the length of the first step.

    Returns:
        (N,) bool: the rows that go on from their best point.
    """
    support = _support(state.best, state.rows.clean)
    fewer = support < _FEWER * state.support
    shorter = (state.length / _SLOWER).maximum(longest / _SLOWEST)
    state.length = torch.where(due, torch.where(fewer, longest, shorter), state.length)
    _set_density(state, due, support)
    return due & fewer


def hopeless(state: Run, margins: Tensor, planned: Tensor, *, stretch: int) -> Tensor:
    """Which rows cannot get there: at the pace of their last stretch the steps left are too few.

    Searches slow down, so that a constant pace is a generous guess; who would come close goes on
    all the same. Rows that have not moved the model at all are given their time: where gradients
    are masked, pace says nothing.

    Args:
        state: Notes the margins.
        margins: (N,) at the current points.
        planned: (N,) int64, the steps of the stage.
        stretch: Steps from one look to the next; the first is not judged.

    Returns:
        (N,) bool.
    """
    fresh = state.step == 0
    state.outset = torch.where(fresh, margins, state.outset)
    state.lead = torch.where(fresh, margins, torch.fmax(state.lead, margins))
    before = torch.where(fresh, -torch.inf, state.lead_before)
    due = (state.step % stretch == 0) & ~fresh
    state.lead_before = torch.where(due, state.lead, before)
    expected = state.lead + (state.lead - before) / stretch * (planned - state.step)
    return due & (expected < _CLOSE * state.outset) & (state.lead > state.outset)


def _set_density(state: Run, rows: Tensor, support: Tensor) -> None:
    density = (support / (_THINNER * state.point[0].numel())).to(state.density.dtype)
    state.density = torch.where(rows, density, state.density)
    state.support = torch.where(rows, support, state.support)


def _support(point: Tensor, clean: Tensor) -> Tensor:
    """(N,) int64: how many values differ from the clean image."""
    return (point != clean).flatten(1).sum(1)

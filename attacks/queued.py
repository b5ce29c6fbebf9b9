"""Attacks that take examples from a queue as rows come free, and the queue."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from robustkit.attacks.base import EvasionAttack, ViewT
from robustkit.attacks.rows import Rows, check_rows, join_rows, take_rows
from robustkit.randomness import Streams
from robustkit.threat_models import Decisions, Objective, PerturbationSet

# Called with a number of free rows; gives at most so many first attempts, None at the end.
Source = Callable[[int], Rows | None]


@dataclass(frozen=True, slots=True)
class Found:
    """Examples that have left the search.

    Attributes:
        index: (N,) int64, their victims.
        points: (N, C, H, W) where their search ended.
        lead: (N,) the largest margin seen in their search; negative where no point reached the
            objective.
    """

    index: Tensor
    points: Tensor
    lead: Tensor


class Queued(EvasionAttack[ViewT]):
    """An attack that keeps its batch full: the next example enters where one leaves.

    What happens to an example depends on nothing but the example, so that it does not matter with
    which others it shares a batch, or when it enters.
    """

    @property
    def draws(self) -> int:
        """How many answers a step asks for; more than one where the model answers at random.

        Each is a query, and each gradient a pass.
        """
        return 1

    def prepare(self, view: ViewT, rows: Rows) -> Rows:
        """What is looked up once per example before its search, at its own expense.

        By default nothing.
        """
        return rows

    @abstractmethod
    def search(self, view: ViewT, source: Source, *, width: int, pad: bool) -> Iterator[Found]:
        """Attack examples as they come.

        Args:
            view: The model as the attack sees it.
            source: Where they come from.
            width: Rows in the batch.
            pad: Whether the model is always run in so many rows, so that results do not depend on
                which examples share a batch.

        Yields:
            Examples as they leave: at the first success, after the last step of the last attempt,
            or when they cannot pay for another query.
        """

    def run(
        self,
        view: ViewT,
        inputs: Tensor,
        objective: Objective,
        allowed: PerturbationSet,
        *,
        streams: Streams,
    ) -> Tensor:
        """Change inputs so that the objective is reached; see `EvasionAttack.run`."""
        check_rows(inputs, objective, streams)
        index = torch.arange(len(inputs), device=inputs.device)
        everything = Rows.first(inputs, objective, streams, index, allowed)
        changed = inputs.clone()
        width = view.width or max(len(inputs), 1)
        blocks = (
            take_rows(everything, index[start : start + width])
            for start in range(0, len(index), width)
        )
        for found in searched(self, view, blocks, width=width, pad=bool(view.width)):
            changed[found.index] = found.points
        return changed


def searched(
    attack: Queued[ViewT], view: ViewT, blocks: Iterator[Rows], *, width: int, pad: bool
) -> Iterator[Found]:
    """Run an attack on blocks of examples, best as wide as the model is run.

    Yields:
        As `Queued.search`; who cannot pay for a single step is found where it was, at the end.
    """
    unable: list[Found] = []

    def able() -> Iterator[Rows]:
        for block in blocks:
            broke = penniless(view, block.index, attack.draws)
            if not bool(broke.any()):
                yield block
                continue
            out, going_on = (take_rows(block, mask.nonzero()[:, 0]) for mask in (broke, ~broke))
            unseen = torch.full(out.index.shape, -torch.inf, device=out.index.device)
            unable.append(Found(out.index, out.clean, unseen))
            if len(going_on.index):
                yield going_on

    yield from attack.search(view, feed(attack, view, able()), width=width, pad=pad)
    yield from unable


def feed(attack: Queued[ViewT], view: ViewT, blocks: Iterator[Rows]) -> Source:
    """A source of examples: prepares blocks of them and hands them out in any numbers.

    Args:
        attack: What is going to be run.
        view: The model as the attack sees it.
        blocks: First attempts, best in blocks as wide as the model is run.
    """
    waiting: list[Rows] = []

    def source(room: int) -> Rows | None:
        taken: list[Rows] = []
        while room:
            if not waiting:
                block = next(blocks, None)
                if block is None:
                    break
                waiting.append(attack.prepare(view, block))
            rows = waiting.pop()
            numbers = torch.arange(len(rows.index), device=rows.index.device)
            if len(numbers) > room:
                waiting.append(take_rows(rows, numbers[room:]))
                rows = take_rows(rows, numbers[:room])
            taken.append(rows)
            room -= len(rows.index)
        return join_rows(taken) if taken else None

    return source


def penniless(view: Decisions, index: Tensor, price: int) -> Tensor:
    """(N,) bool: the victims that cannot pay for another step of so many queries."""
    left = view.remaining
    if left is None:
        return torch.zeros_like(index, dtype=torch.bool)
    return left[index.clamp_min(0)] < price

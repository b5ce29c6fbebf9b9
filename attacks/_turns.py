"""Searches that take turns, so that what they ask fills whole batches.

Some questions come one at a time for each image, each after the answer to the one before: starts,
probes, bisections. Others, random steps, come many at once. A batch of the first kind alone is as
wide as there are images that still search, and most of it may be padding. So the images are split
into parts that search on their own: while one bisects, the random steps of another fill up the
batch.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from robustkit.attacks._boundary import Hunt, Question, Steps
from robustkit.threat_models import Decisions


@dataclass(slots=True)
class _Turn:
    """One search.

    Attributes:
        hunt: Its account.
        steps: What it does next.
        first: The index in the view of its first victim.
        question: What it waits for an answer to.
        asked: How many points of the question have been asked about.
        since: When the question was put.
    """

    hunt: Hunt
    steps: Steps[None]
    first: int
    question: Question
    asked: int = 0
    since: int = 0

    @property
    def waiting(self) -> int:
        """Points that have not been asked about."""
        return len(self.question.rows) - self.asked

    def goes_on(self, clock: Iterator[int]) -> bool:
        """Go on to the next question that is not answered; False at the end of the search."""
        while not self.waiting:
            question = next(self.steps, None)
            if question is None:
                return False
            self.question, self.asked, self.since = question, 0, next(clock)
        return True

    def take(self, most: int) -> slice:
        """So many points of the question, or what there is of them."""
        part = slice(self.asked, self.asked + min(most, self.waiting))
        self.asked = part.stop
        return part


def take_turns(
    view: Decisions, hunts: Sequence[Hunt], search: Callable[[Hunt], Steps[None]]
) -> None:
    """Search with all hunts until each has ended.

    What a search asks and hears does not depend on the others.

    Args:
        view: Labels, for the victims of all hunts, in their order.
        hunts: One for each part of the victims.
        search: How each is searched.
    """
    turns, first = [], 0
    for hunt in hunts:
        steps = search(hunt)
        question = next(steps, None)
        if question is not None:
            turns.append(_Turn(hunt, steps, first, question))
        first += len(hunt.clean)
    clock = itertools.count()
    while turns := [turn for turn in turns if turn.goes_on(clock)]:
        # Who waits for one answer goes first. Then the oldest question is finished before the next
        # one, so that not all of them end together.
        turns.sort(key=lambda turn: (turn.question.patient, turn.since))
        _ask(view, turns)


def _ask(view: Decisions, turns: Sequence[_Turn]) -> None:
    """One batch, filled from the questions in their order."""
    room = turns[0].hunt.width
    asked = []
    for turn in turns:
        part = turn.take(room)
        room -= part.stop - part.start
        if part.start < part.stop:
            asked.append((turn, part, turn.question.points(part)))
    payers = [turn.first + turn.question.rows[part] for turn, part, _ in asked]
    labels = view.labels(torch.cat([points for *_, points in asked]), torch.cat(payers))
    answers = torch.split(labels, [len(rows) for rows in payers])
    for (turn, part, points), heard in zip(asked, answers, strict=True):
        won = turn.hunt.hear(points, turn.question.rows[part], heard)
        turn.question.learn(part, points, won)

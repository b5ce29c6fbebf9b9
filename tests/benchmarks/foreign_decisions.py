"""Attacks on labels by others, each search as its authors run it, many of them at once.

A foreign search asks about a few images at a time. Here every search has a thread of its own and
the threads take turns: each goes on until it asks, then what all have asked goes through the model
in one batch. A search sees a model, its own random numbers and nothing of the others; what it would
do alone it does here.

The official CGBA is not part of this project. Its authors publish it at
https://github.com/Farhamdur/CGBA: clone it and name the folder in ROBUSTKIT_CGBA.
"""

import os
import sys
import threading
import types
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Search = Callable[[nn.Module, Tensor, int], object]


class _Over(BaseException):
    """The budget has ended; no `except Exception` of foreign code stops it."""


class Account:
    """What a search has asked and the best of it.

    A point outside [0, 1] counts with its clipped version, if that is adversarial when judged; that
    judging is not charged.

    Attributes:
        spent: Queries so far.
        trace: (query, distance) at each improvement, distances being l2 in [0, 1].
    """

    def __init__(self, clean: Tensor, label: int, budgets: tuple[int, ...]) -> None:
        """Args: (1, C, H, W) input, its label, and where the best point is kept to be judged."""
        self.spent = 0
        self.trace: list[tuple[int, float]] = []
        self._clean, self._label, self._budgets = clean, label, budgets
        self._best = float("inf")
        self._point = clean
        self._kept: dict[int, Tensor] = {}

    @property
    def left(self) -> int:
        """Queries that are not spent."""
        return self._budgets[-1] - self.spent

    def charge(self, points: Tensor, labels: Tensor, judge: Callable[[Tensor], Tensor]) -> None:
        """Take in the answers to (M, C, H, W) points, as many as the budget pays for."""
        points, labels = points[: self.left], labels[: self.left]
        boxed = points.clamp(0, 1)
        distance = (boxed - self._clean).double().flatten(1).norm(dim=1)
        worth = (
            (labels != self._label) & (distance < self._best) & boxed.isfinite().flatten(1).all(1)
        )
        outside = (worth & (boxed != points).flatten(1).any(1)).nonzero()[:, 0]
        if len(outside):
            worth[outside] = judge(boxed[outside]) != self._label
        for number in range(len(points)):
            self.spent += 1
            if bool(worth[number]) and float(distance[number]) < self._best:
                self._best, self._point = float(distance[number]), boxed[number : number + 1]
                self.trace.append((self.spent, self._best))
            if self.spent in self._budgets:
                self._kept[self.spent] = self._point

    def confirmed(self, judge: Callable[[Tensor], Tensor]) -> list[float | None]:
        """Per budget the best distance, if its point is adversarial when judged again."""
        points = [self._kept.get(budget, self._point) for budget in self._budgets]
        labels = judge(torch.cat(points))
        distance = [float((point - self._clean).double().norm()) for point in points]
        return [
            value if int(label) != self._label else None
            for value, label in zip(distance, labels, strict=True)
        ]


@dataclass
class _Seat:
    """One search in its thread."""

    number: int
    account: Account
    clean: Tensor
    question: Tensor | None = None
    answer: Tensor | None = None
    over: bool = False
    error: BaseException | None = None
    go: threading.Event = field(default_factory=threading.Event)
    paused: threading.Event = field(default_factory=threading.Event)
    torch_state: Tensor | None = None
    numpy_state: Any = None

    def work(self, search: Search) -> None:
        """The thread."""
        self._wait()
        try:
            if not self.over:
                search(_Window(self), self.clean, self.number)
        except _Over:
            pass
        except Exception as error:
            self.error = error
        self.question, self.over = None, True
        self.paused.set()

    def ask(self, question: Tensor) -> Tensor:
        """Called in the thread: hand over a question and wait for the answer."""
        self.question = question.detach().float()
        self.paused.set()
        self._wait()
        if self.over or self.answer is None:
            raise _Over
        return self.answer

    def turn(self) -> None:
        """Called outside: let the thread go on until it asks or ends."""
        if self.torch_state is not None:
            torch.set_rng_state(self.torch_state)
            np.random.set_state(self.numpy_state)  # noqa: NPY002
        self.paused.clear()
        self.go.set()
        self.paused.wait()
        self.torch_state, self.numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002

    def _wait(self) -> None:
        self.go.wait()
        self.go.clear()


class _Window(nn.Module):
    """The model as a foreign search sees it."""

    def __init__(self, seat: _Seat) -> None:
        super().__init__()
        self._seat = seat
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        return self._seat.ask(inputs)


def run_all(
    search: Search,
    net: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    budgets: tuple[int, ...],
    numbers: list[int],
    seed: int,
    finished: Callable[[int, Account, BaseException | None], None],
    together: int = 20,
) -> None:
    """Run one search per image, `together` at once.

    Args:
        search: Called with a model, a (1, C, H, W) image and its number.
        net: Gives logits.
        inputs: (N, C, H, W) in [0, 1].
        labels: (N,).
        budgets: Queries at which the best point is kept; the last ends the search.
        numbers: Which images.
        seed: Of the random numbers; each image has its own.
        finished: Called with the image's number, its account and what its search raised, if it did.
        together: Searches at once.
    """
    before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    try:
        _take_turns(search, _Judge(net), inputs, labels, budgets, numbers, seed, finished, together)
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])  # noqa: NPY002


def _take_turns(
    search: Search,
    judge: "_Judge",
    inputs: Tensor,
    labels: Tensor,
    budgets: tuple[int, ...],
    numbers: list[int],
    seed: int,
    finished: Callable[[int, Account, BaseException | None], None],
    together: int,
) -> None:
    waiting = deque(numbers)
    seats: list[_Seat] = []
    while waiting or seats:
        while waiting and len(seats) < together:
            number = waiting.popleft()
            account = Account(inputs[number : number + 1], int(labels[number]), budgets)
            seat = _Seat(number, account, inputs[number : number + 1].clone())
            torch.manual_seed(1000 * seed + number)
            np.random.seed(1000 * seed + number)  # noqa: NPY002
            threading.Thread(target=seat.work, args=(search,), daemon=True).start()
            seat.torch_state, seat.numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
            seats.append(seat)
        for seat in seats:
            seat.turn()
        asked = [(seat, seat.question) for seat in seats if seat.question is not None]
        if asked:
            logits = judge.logits(torch.cat([question for _, question in asked]))
            parts = torch.split(logits, [len(question) for _, question in asked])
            for (seat, question), part in zip(asked, parts, strict=True):
                seat.account.charge(question, part.argmax(1), judge)
                seat.answer = part
                seat.over = seat.account.left <= 0
        for seat in [seat for seat in seats if seat.over]:
            if seat.question is not None:
                seat.turn()
            seats.remove(seat)
            finished(seat.number, seat.account, seat.error)


class _Judge:
    """Labels and logits in batches of a bounded size."""

    def __init__(self, net: nn.Module) -> None:
        self._net = net

    def logits(self, points: Tensor) -> Tensor:
        with torch.inference_mode():
            answer = torch.cat([self._net(part) for part in torch.split(points, 128)])
        return answer.clone()

    def __call__(self, points: Tensor) -> Tensor:
        return self.logits(points).argmax(1)


def official_cgba(folder: str | None = None, *, reduction: int = 2) -> Search:
    """The authors' CGBA in [0, 1] (mean 0, standard deviation 1), untargeted.

    Raises:
        FileNotFoundError: ROBUSTKIT_CGBA names no folder with the authors' code.
    """
    place = Path(folder or os.environ.get("ROBUSTKIT_CGBA", "")) / "proposed_attack.py"
    if not place.is_file():
        raise FileNotFoundError(
            "ROBUSTKIT_CGBA must name a clone of https://github.com/Farhamdur/CGBA."
        )
    module = types.ModuleType("proposed_attack")
    helpers = types.ModuleType("utils")
    # All that the attack needs of its authors' helpers, which import much more.
    helpers.clip_image_values = _clip  # type: ignore[attr-defined]
    module.__dict__["print"] = _silent
    before = sys.modules.get("utils")
    sys.modules["utils"] = helpers
    try:
        exec(compile(place.read_text(encoding="utf-8"), str(place), "exec"), module.__dict__)
    finally:
        sys.modules.pop("utils")
        if before is not None:
            sys.modules["utils"] = before

    def search(model: nn.Module, clean: Tensor, number: int) -> object:
        shape = clean.shape[1]
        attack = module.Proposed_attack(
            model,
            clean,
            np.zeros(shape),
            np.ones(shape),
            clean.new_zeros(1),
            clean.new_ones(1),
            dim_reduc_factor=reduction,
            attack_method="CGBA",
            verbose_control="No",
        )
        attack.device = str(clean.device)
        return attack.Attack()

    return search


def _silent(*_: object) -> None:
    pass


def _clip(points: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.max(torch.min(points, high), low)


def hop_skip_jump() -> Search:
    """Foolbox's HopSkipJump as it comes, l2."""
    import foolbox.attacks.hop_skip_jump
    from foolbox.criteria import Misclassification
    from foolbox.models.pytorch import PyTorchModel

    def search(model: nn.Module, clean: Tensor, number: int) -> object:
        with torch.no_grad():
            label = model(clean).argmax(1)
        wrapped = PyTorchModel(model, bounds=(0, 1), device="cpu")
        attack = foolbox.attacks.hop_skip_jump.HopSkipJumpAttack()
        return attack.run(wrapped, clean, Misclassification(label))

    return search

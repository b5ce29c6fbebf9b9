"""What the adapters of foreign attack packages share.

Foreign code draws from global generators, warns, logs, aborts a whole batch for one image and knows
neither budgets nor the example a query is for. It gets the model only as a counted module, runs
inside a quarantine, and whatever good point it asked about is remembered for it.
"""

import contextlib
import logging
import random
import sys
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from robustkit.attacks._questions import Questions
from robustkit.attacks.base import EvasionAttack, ViewT
from robustkit.attacks.rows import check_rows
from robustkit.errors import DeviceLost
from robustkit.randomness import Streams, seed_generators
from robustkit.threat_models import Decisions, Objective, PerturbationSet, ThreatModel

Scalar = str | int | float | bool | None

# How far a point may lie outside the set and still be taken for rounding in single precision.
_ROUNDING = 1e-5


class ForeignAttack(EvasionAttack[ViewT]):
    """An attack of another package, run through the view.

    Results may depend on which examples share a batch. With a query budget every example is
    attacked alone.
    """

    order_free: ClassVar[bool] = False

    @property
    @abstractmethod
    def variant(self) -> str:
        """What follows the colon in the attack's name; empty for the default."""

    @property
    @abstractmethod
    def arguments(self) -> Mapping[str, Scalar]:
        """The options of the foreign attack by name, defaults included."""

    def why_not(self, threat: ThreatModel) -> str | None:
        """The reason why this attack does not fit the threat model; None if it does."""
        reason = super().why_not(threat)
        if reason is None and not self.minimises and threat.allowed.radius == float("inf"):
            reason = "it needs a finite radius"
        return reason

    @abstractmethod
    def search(
        self,
        module: nn.Module,
        inputs: Tensor,
        objective: Objective,
        allowed: PerturbationSet,
        *,
        starts: Tensor | None,
        seed: int,
    ) -> tuple[Tensor, Tensor]:
        """Let the foreign code search.

        Args:
            module: Gives what the view grants, as logits.
            inputs: (N, C, H, W) contiguous, N > 0.
            objective: What is wanted of each.
            allowed: What may be changed.
            starts: Like `inputs`, other images that may already reach the objectives; or None.
            seed: What the global generators have been seeded with.

        Returns:
            (N, C, H, W) points and (N,) bool, whether the foreign code claims success.
        """

    def batches(self, objective: Objective) -> bool:
        """Whether several examples may share a call."""
        return True

    def starts(self, inputs: Tensor, objective: Objective, row: int) -> Sequence[Tensor | None]:
        """Where to start at this row, in order: (1, C, H, W) images, or None.

        None leaves it to the foreign code. The next is tried where one led nowhere.
        """
        return (None,)

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
        clean = inputs.detach().contiguous()
        if not len(clean) or (allowed.radius == 0 and not self.minimises):
            return clean.clone()
        if view.remaining is None and len(clean) > 1 and self.batches(objective):
            points = self._together(view, clean, objective, allowed, streams)
            if points is not None:
                return points
        alone = [
            self._alone(view, clean, objective, allowed, streams, row) for row in range(len(clean))
        ]
        return torch.cat(alone)

    def _together(
        self,
        view: Decisions,
        clean: Tensor,
        objective: Objective,
        allowed: PerturbationSet,
        streams: Streams,
    ) -> Tensor | None:
        """The result for a whole batch; None if the foreign code gave up."""
        module = Questions(view)
        seed = _seed(streams, 0)
        with tolerant(module), quarantine(seed, clean.device):
            points, success = self.search(
                module, clean.clone(), objective, allowed, starts=None, seed=seed
            )
            return self._settled(clean, points, success, allowed)
        return None

    def _alone(
        self,
        view: Decisions,
        everyone: Tensor,
        objective: Objective,
        allowed: PerturbationSet,
        streams: Streams,
        row: int,
    ) -> Tensor:
        """The result for one example: the foreign one if it holds, else the best point asked for.

        Where the foreign code gave up and asked for no good point either: the clean input.
        """
        clean = everyone[row : row + 1]
        mine = slice(row, row + 1)
        module = Questions(view.take(torch.tensor([row], device=clean.device)))
        module.watch(clean, objective.take(mine), allowed, minimises=self.minimises)
        seed = _seed(streams, row)
        result = clean.clone()
        for starts in self.starts(everyone, objective, row):
            with tolerant(module), quarantine(seed, clean.device):
                points, success = self.search(
                    module, clean.clone(), objective.take(mine), allowed, starts=starts, seed=seed
                )
                result = self._settled(clean, points, success, allowed)
                if bool(success) and not self.minimises and bool(allowed.contains(clean, result)):
                    return result
            if module.best is not None:
                return module.best
            if module.spent:
                break
        return result

    def _settled(
        self, clean: Tensor, points: Tensor, success: Tensor, allowed: PerturbationSet
    ) -> Tensor:
        """Points with the rounding of foreign code undone; what is further out stays there.

        Where an attack that minimises found nothing, its point means nothing: the clean input.
        """
        points = points.detach().to(clean)
        if self.minimises:
            points = torch.where(success.reshape(-1, 1, 1, 1), points, clean)
        outside = ~(allowed.in_box(points) if self.minimises else allowed.contains(clean, points))
        inside = points.clamp(allowed.low, allowed.high)
        if not self.minimises:
            inside = allowed.project(clean, points)
        near = (inside - points).abs().flatten(1).amax(1) <= _ROUNDING * (
            allowed.high - allowed.low
        )
        return torch.where((outside & near).reshape(-1, 1, 1, 1), inside, points)


def _seed(streams: Streams, row: int) -> int:
    return int(streams.take([row]).fork("foreign").integers(2**31 - 1))


@contextlib.contextmanager
def tolerant(module: Questions) -> Iterator[None]:
    """Swallow what foreign code raises while it searches, the end of the budget included.

    What the model raises goes on, and what is raised before the first question: examples that were
    never attacked must not pass for ones that withstood.
    """
    try:
        yield
    except (torch.OutOfMemoryError, DeviceLost):
        raise
    except Exception:
        if module.failure is not None or not module.asked:
            raise
        logging.getLogger("robustkit").debug("A foreign attack gave up.", exc_info=True)


@contextlib.contextmanager
def quarantine(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators and put back afterwards what foreign code may have changed.

    That is: the generators of torch, NumPy and Python, the tracing function of debuggers and
    coverage, and the root logger's handlers. Warnings are not shown. Gradients are enabled.
    """
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - foreign code draws from it
    tracer = sys.gettrace()
    handlers = logging.getLogger().handlers
    # `logging.info` on a root logger without handlers would configure it for the whole program.
    silent = logging.NullHandler()
    handlers.append(silent)
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda = list(range(torch.cuda.device_count())) if used else []
    try:
        with (
            torch.random.fork_rng(devices=cuda),
            warnings.catch_warnings(),
            torch.enable_grad(),
        ):
            warnings.simplefilter("ignore")
            _seed_everything(seed, device)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        sys.settrace(tracer)
        handlers.remove(silent)


def _seed_everything(seed: int, device: torch.device) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    seed_generators(seed, device)

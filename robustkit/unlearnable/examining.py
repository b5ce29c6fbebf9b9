"""Watching a network while it learns: which epoch does best, and what it cost."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from robustkit.data import LabelledImages
from robustkit.models.frozen import frozen
from robustkit.passes import Passes
from robustkit.training import Snapshot
from robustkit.unlearnable.outcomes import Bits

# Rows per pass of a test.
_WIDTH = 256


class Progress(Protocol):
    """Told how an audit goes on."""

    def stage(self, name: str, total: int, done: int) -> None:
        """Something begins that takes so many steps."""
        ...

    def advance(self, done: int, broken: int) -> None:
        """So many more steps are done; nothing is broken here."""
        ...


class Silent:
    """Progress that nobody watches."""

    def stage(self, name: str, total: int, done: int) -> None:
        """Nothing."""

    def advance(self, done: int, broken: int) -> None:
        """Nothing."""


class Examiner:
    """The progress of a training that looks at the network after every epoch.

    Attributes:
        best: The weights that did best so far on the images by which the epoch is chosen.
    """

    def __init__(
        self, network: nn.Module, choosing: LabelledImages, *, name: str, progress: Progress
    ) -> None:
        """Look after a network.

        Args:
            network: What is trained, in place.
            choosing: Images by which the best epoch is chosen; it is scored on others.
            name: What the progress calls the training.
            progress: Who is told.
        """
        self.best: Snapshot | None = None
        self._network = network
        self._choosing = choosing
        self._name = name
        self._progress = progress

    def begin(self, *, epochs: int, steps: int, epoch: int, step: int) -> None:
        """An epoch begins."""
        if epoch == 0:
            self._progress.stage(self._name, epochs * steps, step)

    def step(self) -> None:
        """One more step is done."""
        self._progress.advance(1, 0)

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Keep the weights if they are the best so far; of equal ones the earliest."""
        score = float(right(self._network, self._choosing).mean())
        if self.best is None or self.best.score is None or score > self.best.score:
            self.best = Snapshot.of(self._network, epoch=record["epoch"], score=score)


def right(network: nn.Module, images: LabelledImages) -> Bits:
    """(N,) bool: which images a network names rightly; it is given back as it was."""
    first = next(network.parameters())
    found = []
    with frozen(network), torch.no_grad(), torch.autocast(first.device.type, enabled=False):
        for rows in torch.split(torch.arange(len(images)), _WIDTH):
            answers = network(images.inputs(rows).to(first.device)).argmax(1).cpu()
            found.append(answers == images.labels[rows])
    bits: Bits = torch.cat(found).numpy().astype(np.bool_)
    return bits


class Bill:
    """Counts the examples that pass through a network.

    Attributes:
        forward: Examples passed forward.
        backward: Examples whose answers were made to be differentiated.
    """

    def __init__(self) -> None:
        """Nothing is counted yet."""
        self.forward = self.backward = 0

    @property
    def passes(self) -> Passes:
        """What was counted."""
        return Passes(self.forward, self.backward, self.forward)

    @contextlib.contextmanager
    def counting(self, network: nn.Module) -> Iterator[None]:
        """Count while this is held."""
        handle = network.register_forward_hook(self._count)
        try:
            yield
        finally:
            handle.remove()

    def _count(self, module: nn.Module, inputs: tuple[Tensor, ...], answers: Tensor) -> None:
        self.forward += len(answers)
        self.backward += len(answers) * answers.requires_grad

"""Asking a model about every image under every corruption, recorded so that nothing is lost."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustkit.corruptions import NAMES, SEVERITIES, corrupt
from robustkit.data import LabelledImages
from robustkit.evaluation.progress import Progress
from robustkit.evaluation.records import Group, Records
from robustkit.randomness import Streams
from robustkit.threat_models import Meter

# The numbers of the stages under which answers are recorded.
CLEAN = -1
CONTROL = len(NAMES) * len(SEVERITIES)
REFERENCE = CONTROL + 1


@dataclass(frozen=True, slots=True)
class Condition:
    """What is done to the images before the model is asked.

    Attributes:
        stage: The number under which the answers are recorded.
        name: The corruption; None for all of them in turn.
        severity: 0 for no change.
    """

    stage: int
    name: str | None
    severity: int


def grid(first: int = 0) -> list[Condition]:
    """Every corruption at every severity, recorded under `first` and the numbers that follow."""
    cells = [(name, severity) for name in NAMES for severity in SEVERITIES]
    return [Condition(first + place, *cell) for place, cell in enumerate(cells)]


# Severity 0 goes the way of every corruption and must change no answer.
OWN = (*grid(), Condition(CONTROL, None, 0))


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What all questions of one run share.

    Attributes:
        data: All examples.
        seed: Of all randomness.
        width: Rows in which a model is run.
        device: Where the models are.
        records: What has been answered.
        progress: Who is told.
    """

    data: LabelledImages
    seed: int
    width: int
    device: torch.device
    records: Records
    progress: Progress

    def clean(self, model: nn.Module) -> None:
        """Ask about the images as they are."""
        self._ask(model, "clean", [Condition(CLEAN, None, 0)])

    def corrupted(self, model: nn.Module) -> None:
        """Ask about the images under every corruption, and under none once more as a control."""
        self._ask(model, "corruptions", OWN)

    def reference(self, model: nn.Module) -> None:
        """Ask the reference model about the same corrupted images."""
        self._ask(model, "reference model", grid(REFERENCE))

    def _ask(self, model: nn.Module, title: str, conditions: Sequence[Condition]) -> None:
        """Images are read once and corrupted in all ways while they are here."""
        done = {condition.stage: self._finished(condition.stage) for condition in conditions}
        finished = sum(int(rows.sum()) for rows in done.values())
        self.progress.stage(title, len(self.data) * len(conditions), finished)
        for start in range(0, len(self.data), self.width):
            part = torch.arange(start, min(start + self.width, len(self.data)))
            if all(bool(rows[part].all()) for rows in done.values()):
                continue
            images = self.data.inputs(part).to(self.device)
            for condition in conditions:
                left = ~done[condition.stage][part]
                if bool(left.any()):
                    self._answers(model, condition, part[left], images[left.to(self.device)])

    def _finished(self, stage: int) -> Tensor:
        """(N,) bool: which examples an earlier run has asked about."""
        finished = torch.zeros(len(self.data), dtype=torch.bool)
        for group in self.records.stage(stage):
            finished[group.rows] = True
        return finished

    def _answers(self, model: nn.Module, condition: Condition, rows: Tensor, clean: Tensor) -> None:
        began = time.perf_counter()
        # Two conditions of a random model are two draws.
        meter = Meter(model, self._streams(rows, f"answers {condition.stage}"), width=self.width)
        changed = self._corrupted(condition, rows, clean)
        with torch.no_grad():
            output = meter.ask(changed, torch.arange(len(rows), device=self.device))
        group = Group(
            stage=condition.stage,
            rows=rows.tolist(),
            labels=output.labels.tolist(),
            forward=len(rows),
            rows_run=meter.ledger.rows_run,
            seconds=time.perf_counter() - began,
        )
        self.records.add(group)
        self.progress.advance(len(rows), 0)

    def _corrupted(self, condition: Condition, rows: Tensor, clean: Tensor) -> Tensor:
        streams = self.drawing(self.data.ids[rows].to(self.device), self.seed)
        if condition.name is not None:
            return corrupt(clean, condition.name, condition.severity, streams=streams)
        if condition.stage == CLEAN:
            return clean
        changed = clean.clone()
        for place, name in enumerate(NAMES[: len(rows)]):
            turn = torch.arange(place, len(rows), len(NAMES), device=self.device)
            changed[turn] = corrupt(clean[turn], name, 0, streams=streams.take(turn))
        return changed

    @staticmethod
    def drawing(ids: Tensor, seed: int) -> Streams:
        """The streams by which the examples with these ids are corrupted."""
        return Streams.of(seed=seed, ids=ids, purpose="corruptions")

    def _streams(self, rows: Tensor, purpose: str) -> Streams:
        ids = self.data.ids[rows].to(self.device)
        return Streams.of(seed=self.seed, ids=ids, purpose=purpose)

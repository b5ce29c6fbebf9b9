"""Running attacks over the examples that still stand, and judging what they return."""

import functools
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from robustkit.attacks.base import EvasionAttack
from robustkit.attacks.rows import Rows
from robustkit.attacks.stepwise import Found, Stepwise, search
from robustkit.data import LabelledImages
from robustkit.evaluation.labels import marks, owned_images
from robustkit.evaluation.records import Group, Records
from robustkit.passes import Passes, padded
from robustkit.randomness import Streams
from robustkit.threat_models import (
    Access,
    Decisions,
    Meter,
    Objective,
    ThreatModel,
    Trace,
    Untargeted,
    grant,
    objective,
)


class Progress(Protocol):
    """Told how a run goes on."""

    def stage(self, name: str, total: int, done: int) -> None:
        """A stage begins; `done` of its `total` examples were finished by an earlier run."""
        ...

    def advance(self, done: int, broken: int) -> None:
        """So many more examples have left the stage, so many of them broken."""
        ...


class Silent:
    """Progress that nobody watches."""

    def stage(self, name: str, total: int, done: int) -> None:
        """Nothing."""

    def advance(self, done: int, broken: int) -> None:
        """Nothing."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What all stages of one run share.

    Attributes:
        model: The model, frozen and in eval mode.
        data: All examples.
        threat: The adversary.
        seed: Of all randomness.
        width: Rows in which the model is run.
        device: Where the model is.
        records: What has been found.
        progress: Who is told.
    """

    model: nn.Module
    data: LabelledImages
    threat: ThreatModel
    seed: int
    width: int
    device: torch.device
    records: Records
    progress: Progress

    def clean_pass(self) -> None:
        """Ask the model about every clean image and choose the targets of a targeted goal."""
        finished = [row for group in self.records.stage(-1) for row in group.rows]
        rows = _without(torch.arange(len(self.data)), finished)
        self.progress.stage("clean", len(self.data), len(finished))
        clock = _Clock()
        for part in _parts(rows, self.width):
            meter = Meter(self.model, self.streams(part, "clean"), width=self.width)
            with torch.no_grad():
                output = meter.ask(self.inputs(part), torch.arange(len(part), device=self.device))
                right = self.data.labels[part].to(self.device)
                wanted = objective(self.threat.goal, right, output.logits, self.streams(part, ""))
            self.records.add(
                Group(
                    stage=-1,
                    rows=part.tolist(),
                    labels=output.labels.tolist(),
                    targets=None if wanted.targets is None else wanted.targets.tolist(),
                    forward=len(part),
                    rows_run=meter.ledger.rows_run,
                    seconds=clock.lap(),
                )
            )
            self.progress.advance(len(part), 0)

    def attack(self, stage: int, name: str, attack: EvasionAttack[Any], standing: Tensor) -> None:
        """Run one attack on the examples that still stand, and judge and record what it returns.

        Args:
            stage: The attack's number in the plan.
            name: What progress calls it.
            attack: The attack, already checked against the threat model.
            standing: (M,) positions of the examples it is given, those of an earlier run included.
        """
        finished = [row for group in self.records.stage(stage) for row in group.rows]
        self.progress.stage(name, len(standing), len(finished))
        if isinstance(attack, Stepwise):
            self._search(stage, attack, _without(standing, finished))
        else:
            done = set(finished)
            for block in _parts(standing, self.width):
                # A block that was not recorded whole is run again whole: foreign code sees the same
                # images together as in a run that was never interrupted.
                if not done.issuperset(block.tolist()):
                    self._block(stage, attack, block)
        tried = sorted(row for group in self.records.stage(stage) for row in group.rows)
        if tried != sorted(standing.tolist()):
            # An example that no attack has tried must never pass for one that withstood it.
            raise RuntimeError(f"{name} was given {len(standing)} examples and tried {len(tried)}.")

    def _search(self, stage: int, attack: Stepwise[Any], rows: Tensor) -> None:
        everyone = self.streams(torch.arange(len(self.data)), self._purpose(stage))
        meter = self.threat.meter(self.model, everyone, width=self.width)
        view: Any = grant(meter, attack.access)
        queue = iter(_parts(rows, 1))
        targets = self._objective(torch.arange(len(self.data)))

        def source(room: int) -> Rows | None:
            taken = list(itertools.islice(queue, room))
            if not taken:
                return None
            index = torch.cat(taken)
            there = index.to(self.device)
            return Rows.first(
                self.inputs(index),
                targets.take(there),
                everyone.take(there),
                there,
                self.threat.allowed,
            )

        ledger = meter.ledger
        lap, ran = _Clock(), 0
        for found in _gathered(
            search(attack, view, source, width=self.width, pad=True), self.width
        ):
            # Only what these examples cost: others under way may be lost and done again.
            spent = ledger.forward[found.index]
            bill = Passes(
                int(spent.sum()), int(ledger.backward[found.index].sum()), ledger.rows_run - ran
            )
            ran = ledger.rows_run
            self._judge(stage, attack, found.index.cpu(), found.points, spent, bill, lap)

    def _block(self, stage: int, attack: EvasionAttack[Any], rows: Tensor) -> None:
        streams = self.streams(rows, self._purpose(stage))
        meter = self.threat.meter(self.model, streams, width=self.width)
        view: Decisions = grant(meter, attack.access)
        lap = _Clock()
        wanted = self._objective(rows)
        trace = Trace(self.inputs(rows), wanted, self.threat.allowed)
        if attack.access is Access.DECISION:
            meter.observer = trace.observe
            if wanted.targets is not None:
                wanted = replace(wanted, starts=owned_images(self.data, wanted.targets, streams))
        points = attack.run(view, self.inputs(rows), wanted, self.threat.allowed, streams=streams)
        spent = meter.ledger.forward if meter.ledger.attributed else None
        nearest = None
        if meter.observer is not None and meter.ledger.attributed:
            found = trace.smallest(marks(self.threat)).tolist()
            nearest = [[d if d < float("inf") else None for d in row] for row in found]
        self._judge(stage, attack, rows, points, spent, meter.ledger.passes, lap, nearest)

    def _judge(
        self,
        stage: int,
        attack: EvasionAttack[Any],
        rows: Tensor,
        points: Tensor,
        queries: Tensor | None,
        bill: Passes,
        clock: "_Clock",
        nearest: list[list[float | None]] | None = None,
    ) -> None:
        """Judge at most one width of returned points afresh and record the outcome."""
        count = len(rows)
        clean = self.inputs(rows)
        points = _same_kind(points, clean)
        spent = torch.zeros(count, dtype=torch.int64) if queries is None else queries
        verdict = self.threat.judge(
            self.model,
            padded(clean, self.width),
            padded(points, self.width),
            self._objective(padded(rows, self.width)),
            padded(spent.to(self.device), self.width),
            streams=self.streams(padded(rows, self.width), "score"),
        )
        in_range = self.threat.allowed.in_box(points)
        outcomes, distances = [], []
        for allowed, reached, boxed, distance in zip(
            verdict.allowed[:count].tolist(),
            verdict.reached[:count].tolist(),
            in_range.tolist(),
            verdict.distance[:count].tolist(),
            strict=True,
        ):
            outcome = _outcome(attack, allowed=allowed, reached=reached, in_range=boxed)
            outcomes.append(outcome)
            distances.append(distance if reached and outcome in ("broken", "robust") else None)
        broken = [number for number, outcome in enumerate(outcomes) if outcome == "broken"]
        where: list[int | None] = [None] * count
        if broken:
            for number, place in zip(broken, self.records.keep(points[broken]), strict=True):
                where[number] = place
        self.records.add(
            Group(
                stage=stage,
                rows=rows.tolist(),
                labels=verdict.labels[:count].tolist(),
                outcome=outcomes,
                distance=distances,
                queries=[None] * count if queries is None else queries.tolist(),
                nearest=nearest,
                points=where,
                forward=bill.forward,
                backward=bill.backward,
                rows_run=bill.rows_run + self.width,
                seconds=clock.lap(),
            )
        )
        self.progress.advance(count, len(broken))

    def inputs(self, rows: Tensor) -> Tensor:
        """(N, C, H, W) clean images, on the device."""
        return self.data.inputs(rows).to(self.device)

    def streams(self, rows: Tensor, purpose: str) -> Streams:
        """One stream per example, keyed by its id."""
        ids = self.data.ids[rows].to(self.device)
        return Streams.of(seed=self.seed, ids=ids, purpose=purpose)

    def _purpose(self, stage: int) -> str:
        # Not the attack's name: two entries of one attack must not draw the same numbers.
        return f"attack {stage}"

    def _objective(self, rows: Tensor) -> Objective:
        targets = None if self._targets is None else self._targets[rows].to(self.device)
        return Objective(self.data.labels[rows].to(self.device), targets)

    @functools.cached_property
    def _targets(self) -> Tensor | None:
        """(N,) the targets chosen in the clean pass; None for an untargeted goal."""
        if isinstance(self.threat.goal, Untargeted):
            return None
        chosen = torch.empty(len(self.data), dtype=torch.int64)
        for group in self.records.stage(-1):
            chosen[group.rows] = torch.tensor(group.targets)
        return chosen


def _same_kind(returned: object, clean: Tensor) -> Tensor:
    """What an attack returned; an infinite image, which nothing allows, if it is no such tensor."""
    if isinstance(returned, Tensor) and (returned.shape, returned.dtype) == (
        clean.shape,
        clean.dtype,
    ):
        return returned.detach().to(clean.device)
    return torch.full_like(clean, torch.inf)


def _outcome(attack: EvasionAttack[Any], *, allowed: bool, reached: bool, in_range: bool) -> str:
    if allowed:
        return "broken" if reached else ("not_started" if attack.minimises else "robust")
    if attack.minimises and in_range:
        # It measured how far the nearest point it found is; that is no claim to be inside.
        return "robust" if reached else "not_started"
    return "violation"


def _parts(rows: Tensor, width: int) -> list[Tensor]:
    return [rows[start : start + width] for start in range(0, len(rows), width)]


def _without(rows: Tensor, finished: list[int]) -> Tensor:
    return rows[~torch.isin(rows, torch.tensor(finished, dtype=torch.int64))]


def _gathered(stream: Iterator[Found], width: int) -> Iterator[Found]:
    """The same finds in groups of exactly `width`, the last one smaller."""
    index: list[Tensor] = []
    points: list[Tensor] = []
    waiting = 0
    for found in stream:
        index.append(found.index)
        points.append(found.points)
        waiting += len(found.index)
        while waiting >= width:
            rows, images = torch.cat(index), torch.cat(points)
            yield Found(rows[:width], images[:width])
            index, points = [rows[width:]], [images[width:]]
            waiting -= width
    if waiting:
        yield Found(torch.cat(index), torch.cat(points))


class _Clock:
    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the lap before."""
        now = time.perf_counter()
        lap, self._last = now - self._last, now
        return lap

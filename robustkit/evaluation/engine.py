"""Running attacks over the examples that still stand, and judging what they return."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from robustkit.attacks import EvasionAttack
from robustkit.attacks.queued import Queued, searched
from robustkit.attacks.rows import Rows
from robustkit.data import LabelledImages
from robustkit.evaluation.billing import Aims, Bill
from robustkit.evaluation.blocks import Clock, gathered, parts, without
from robustkit.evaluation.draws import Jury, best_before
from robustkit.evaluation.labels import marks, owned_images
from robustkit.evaluation.plans import Line
from robustkit.evaluation.progress import Progress
from robustkit.evaluation.records import Group, Records, finite
from robustkit.passes import padded
from robustkit.randomness import Streams
from robustkit.threat_models import (
    Access,
    Decisions,
    Gradients,
    Meter,
    Objective,
    ThreatModel,
    Trace,
    Untargeted,
    grant,
)
from robustkit.threat_models.meter import Guide


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What all stages of one run share.

    Attributes:
        model: The model, frozen and in eval mode.
        data: All examples.
        threat: The adversary.
        seed: Of all randomness.
        width: Rows in which the model is run; lines for few examples take a part of them.
        device: Where the model is.
        records: What has been found.
        progress: Who is told.
        stand_ins: Differentiable stand-ins of the model, frozen and in eval mode.
        dtype: Type in which gradients are searched by; verdicts are always in float32.
    """

    model: nn.Module
    data: LabelledImages
    threat: ThreatModel
    seed: int
    width: int
    device: torch.device
    records: Records
    progress: Progress
    stand_ins: Mapping[str, nn.Module] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    _best: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)

    def attack(self, stage: int, line: Line, standing: Tensor) -> None:
        """Run one attack on the examples that still stand, and judge and record what it returns.

        Args:
            stage: The line's number in the plan.
            line: The attack, already checked against the threat model.
            standing: (M,) positions of the examples it is given, those of an earlier run included.
        """
        attack = line.attack
        finished = [row for group in self.records.stage(stage) for row in group.rows]
        self.progress.stage(line.name, len(standing), len(finished))
        if isinstance(attack, Queued):
            self._search(stage, line, attack, without(standing, finished))
        else:
            done = set(finished)
            for block in parts(standing, self.width):
                # A block that was not recorded whole is run again whole: foreign code sees the same
                # images together as in a run that was never interrupted.
                if not done.issuperset(block.tolist()):
                    self._block(stage, line, block)
        tried = sorted(row for group in self.records.stage(stage) for row in group.rows)
        if tried != sorted(standing.tolist()):
            # An example that no attack has tried must never pass for one that withstood it.
            raise RuntimeError(
                f"{line.name} was given {len(standing)} examples and tried {len(tried)}."
            )

    def _search(self, stage: int, line: Line, attack: Queued[Any], rows: Tensor) -> None:
        everyone = self.streams(torch.arange(len(self.data)), self.purpose(stage))
        width = line.width(self.width)
        meter = self.threat.meter(self.model, everyone, width=width)
        view: Any = grant(meter, attack.access)
        meter.guide = None if line.through == "warm" else self._guide(line.through)
        # The smallest change is a claim of its own: its search keeps what it has seen itself.
        meter.dtype = torch.float32 if attack.minimises else self.dtype
        wanted = self.objective(torch.arange(len(self.data)))
        aims = Aims(self.records, len(self.data), line.through)

        def blocks() -> Iterator[Rows]:
            for known in (True, False):
                for part in parts(rows[aims.known(rows) == known], width):
                    index = part.to(self.device)
                    block = Rows.first(
                        self.inputs(part),
                        wanted.take(index),
                        everyone.take(index),
                        index,
                        self.threat.allowed,
                    )
                    if known:
                        block = self._with_aims(block, aims.take(part))
                    block = attack.prepare(view, block)
                    aims.add(part, block.aims)
                    # All blocks have aims or none has: they are going to be joined.
                    if block.aims is None:
                        block = self._with_aims(block, aims.take(part))
                    if line.through == "warm":
                        block = self._run_up(block, attack, meter, view)
                    yield block

        ledger = meter.ledger
        lap, ran = Clock(), 0
        known_before = bool(aims.known(rows).all())
        found_in = searched(attack, view, blocks(), width=width, pad=True)
        for found in gathered(found_in, self.width):
            index = found.index
            # Only what these examples cost: others under way may be lost and done again.
            bill = Bill.of(
                ledger,
                index,
                ledger.rows_run - ran,
                lead=found.lead,
                aims=None if known_before else aims.take(index.cpu()),
            )
            ran = ledger.rows_run
            self.judge(stage, line, index.cpu(), found.points, bill, lap)

    def _with_aims(self, block: Rows, classes: Tensor | None) -> Rows:
        there = None if classes is None else classes.to(self.device)
        return dataclasses.replace(block, aims=there)

    def _guide(self, through: str) -> Guide | None:
        """Whose gradient a line follows; None for the model's own."""
        kind, _, name = through.partition(":")
        if kind == "surrogate":
            return Guide(self.stand_ins[name])
        if through in ("bpda", "warm"):
            # The one that the model names first stands for it best.
            first = next(iter(self.stand_ins.values()))
            return Guide(first, straight_through=through == "bpda")
        return None

    @torch.enable_grad()
    def _run_up(self, block: Rows, attack: Queued[Any], meter: Meter, view: Gradients) -> Rows:
        """The block, to go on from where the same attack ends that follows the stand-in."""
        guide = self._guide("warm")
        if guide is None:
            return block
        fresh = dataclasses.replace(block, streams=block.streams.fork("run-up"))
        with meter.guided(guide):
            ends = attack.run(
                view.take(block.index),
                fresh.clean,
                fresh.objective,
                fresh.allowed,
                streams=fresh.streams,
            )
        return dataclasses.replace(block, start=ends)

    def _block(self, stage: int, line: Line, rows: Tensor) -> None:
        attack = line.attack
        streams = self.streams(rows, self.purpose(stage))
        meter = self.threat.meter(self.model, streams, width=self.width)
        view: Decisions = grant(meter, attack.access)
        lap = Clock()
        wanted = self.objective(rows)
        trace = Trace(self.inputs(rows), wanted, self.threat.allowed)
        if attack.access is Access.DECISION:
            meter.observer = trace.observe
            if wanted.targets is not None:
                wanted = replace(wanted, starts=owned_images(self.data, wanted.targets, streams))
        points = attack.run(view, self.inputs(rows), wanted, self.threat.allowed, streams=streams)
        bill = Bill.whole(meter.ledger)
        nearest = None
        noted = marks(self.threat)
        # Without a budget there is no mark at which to note anything.
        if noted and meter.observer is not None and meter.ledger.attributed:
            found = trace.smallest(noted).tolist()
            nearest = [[d if d < float("inf") else None for d in row] for row in found]
        self.judge(stage, line, rows, points, bill, lap, wanted, nearest)

    def judge(
        self,
        stage: int,
        line: Line,
        rows: Tensor,
        points: Tensor,
        bill: Bill,
        clock: Clock,
        wanted: Objective | None = None,
        nearest: list[list[float | None]] | None = None,
    ) -> None:
        """Judge at most one width of returned points afresh and record the outcome."""
        count = len(rows)
        clean = self.inputs(rows)
        points = _same_kind(points, clean)
        spent = torch.zeros(count, dtype=torch.int64) if bill.queries is None else bill.queries
        wanted = self.objective(rows) if wanted is None else wanted
        verdict = self.threat.judge(
            self.model,
            padded(clean, self.width),
            padded(points, self.width),
            wanted.take(padded(torch.arange(count), self.width).to(self.device)),
            padded(spent.to(self.device), self.width),
            streams=self.streams(padded(rows, self.width), "score"),
        )
        labels, reaches, trial = verdict.labels, verdict.reached, None
        if self.jury is not None:
            best = self._best_before(stage, line.through)[rows]
            trial = self.jury.judge(rows, points, wanted, verdict.allowed[:count], best)
            labels, reaches = trial.majority()
        in_range = self.threat.allowed.in_box(points)
        found = [row[-1] is not None for row in nearest] if nearest else [False] * count
        outcomes, distances = [], []
        for allowed, reached, boxed, started, distance in zip(
            verdict.allowed[:count].tolist(),
            reaches[:count].tolist(),
            in_range.tolist(),
            found,
            verdict.distance[:count].tolist(),
            strict=True,
        ):
            outcome = _outcome(
                line.attack, allowed=allowed, reached=reached, in_range=boxed, found=started
            )
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
                labels=labels[:count].tolist(),
                outcome=outcomes,
                distance=distances,
                queries=[None] * count if bill.queries is None else bill.queries.tolist(),
                passes=[None] * count if bill.passes is None else bill.passes.tolist(),
                # Who minimises sees leads outside the set too: they say nothing about its inside.
                lead=None if bill.lead is None or line.attack.minimises else finite(bill.lead),
                aims=None if bill.aims is None else bill.aims.tolist(),
                nearest=nearest,
                points=where,
                forward=bill.forward,
                backward=bill.backward,
                rows_run=bill.rows_run + self.width + (0 if trial is None else trial.rows_run),
                seconds=clock.lap(),
                through=line.through,
                selected=None if trial is None else trial.selected,
                scored=None if trial is None else trial.scored,
                polled=0 if trial is None else trial.passes,
            )
        )
        self.progress.advance(count, len(broken))

    def _best_before(self, stage: int, through: str) -> Tensor:
        """(N,) as `best_before` says, looked up once for all blocks of a stage."""
        if stage not in self._best:
            # Of the stages before nobody asks again.
            self._best.clear()
            self._best[stage] = best_before(self.records, len(self.data), stage, through)
        return self._best[stage]

    @functools.cached_property
    def jury(self) -> Jury | None:
        """Who judges a model that answers at random; None for others, which are asked once."""
        if not getattr(self.model, "stochastic", False):
            return None
        return Jury(model=self.model, width=self.width, streams=self.streams)

    def sample(self, rows: Tensor, count: int) -> Tensor:
        """At most `count` of the examples at random; which ones does not depend on their order."""
        keys = self.streams(rows, "sample").bits((1,))[:, 0].cpu()
        chosen: Tensor = rows[keys.argsort(stable=True)[:count]].sort().values
        return chosen

    def inputs(self, rows: Tensor) -> Tensor:
        """(N, C, H, W) clean images, on the device."""
        return self.data.inputs(rows).to(self.device)

    def streams(self, rows: Tensor, purpose: str) -> Streams:
        """One stream per example, keyed by its id."""
        ids = self.data.ids[rows].to(self.device)
        return Streams.of(seed=self.seed, ids=ids, purpose=purpose)

    def purpose(self, stage: int) -> str:
        """What the streams of a line of the plan are for."""
        # Not the attack's name: two entries of one attack must not draw the same numbers.
        return f"attack {stage}"

    def objective(self, rows: Tensor) -> Objective:
        """What is wanted of some examples."""
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


def _outcome(
    attack: EvasionAttack[Any], *, allowed: bool, reached: bool, in_range: bool, found: bool
) -> str:
    # Who minimises says how far the nearest point is; that is no claim to be inside the set.
    if not allowed and not (attack.minimises and in_range):
        return "violation"
    if reached:
        return "broken" if allowed else "robust"
    # A point that does not hold when the model is asked again breaks nothing; it was a start.
    return "not_started" if attack.minimises and not found else "robust"

"""The clean pass: what the model says to every image before anything is changed."""

import torch
from torch import Tensor

from robustkit.attacks import FGSM
from robustkit.attacks.losses import margin
from robustkit.attacks.rows import Rows
from robustkit.attacks.steps import input_gradient
from robustkit.evaluation.billing import Bill
from robustkit.evaluation.blocks import Clock, parts, without
from robustkit.evaluation.engine import Engine
from robustkit.evaluation.plans import Line
from robustkit.evaluation.records import Group, finite
from robustkit.threat_models import Meter, Objective, Output, objective


def clean_pass(engine: Engine, first: Line | None = None) -> None:
    """Ask the model about every clean image and choose the targets of a targeted goal.

    Args:
        engine: What is evaluated; its records take in the answers.
        first: The first line of the plan. If it is FGSM, the forward pass that it would repeat
            is this one: its result is judged and recorded here, as stage 0.
    """
    finished = [row for group in engine.records.stage(-1) for row in group.rows]
    rows = without(torch.arange(len(engine.data)), finished)
    engine.progress.stage("clean", len(engine.data), len(finished))
    direct = first is not None and first.through == "direct"
    clock = Clock()
    for part in parts(rows, engine.width):
        if direct and first is not None and isinstance(first.attack, FGSM):
            _stepped(engine, part, first, first.attack, clock)
        else:
            _answered(engine, part, clock)


def _answered(engine: Engine, part: Tensor, clock: Clock) -> None:
    meter = Meter(engine.model, engine.streams(part, "clean"), width=engine.width)
    with torch.no_grad():
        output = meter.ask(engine.inputs(part), torch.arange(len(part), device=engine.device))
        wanted = _wanted(engine, part, output)
    _record(engine, part, output, wanted, meter.ledger.rows_run, 0, clock)
    engine.progress.advance(len(part), 0)


def _stepped(engine: Engine, part: Tensor, line: Line, attack: FGSM, clock: Clock) -> None:
    """The clean answers of some examples and, on their gradient, FGSM's result."""
    meter = Meter(engine.model, engine.streams(part, "clean"), width=engine.width)
    numbers = torch.arange(len(part), device=engine.device)
    inputs = engine.inputs(part).requires_grad_()
    output = meter.ask(inputs, numbers)
    wanted = _wanted(engine, part, output)
    streams = engine.streams(part, engine.purpose(0))
    start = Rows.first(inputs.detach(), wanted, streams, numbers, engine.threat.allowed)
    state = attack.begin(start)
    gradient = input_gradient(attack.gain(state, output.logits), inputs)
    right = output.right(wanted.labels).nonzero()[:, 0]
    with torch.no_grad():
        attack.update(state, output.logits.detach(), gradient)
        points = attack.result(state)[right]
        lead = margin(output.logits.detach(), wanted)[right]
    rows = part[right.cpu()]
    known = {row for group in engine.records.stage(0) for row in group.rows}
    # Recorded before the clean answers: a run that was stopped in between comes by again.
    if len(rows) and not known.issuperset(rows.tolist()):
        one = torch.ones_like(right)
        bill = Bill(queries=one, passes=one, forward=0, backward=len(rows), rows_run=0, lead=lead)
        engine.judge(0, line, rows, points, bill, clock, wanted.take(right))
    else:
        engine.progress.advance(len(rows), 0)
    wrong = len(part) - len(rows)
    engine.progress.advance(wrong, 0)
    _record(engine, part, output, wanted, meter.ledger.rows_run, wrong, clock)


def _wanted(engine: Engine, part: Tensor, output: Output) -> Objective:
    right = engine.data.labels[part].to(engine.device)
    return objective(engine.threat.goal, right, output.logits.detach(), engine.streams(part, ""))


def _record(
    engine: Engine,
    part: Tensor,
    output: Output,
    wanted: Objective,
    rows_run: int,
    backward: int,
    clock: Clock,
) -> None:
    labels, trial, right = output.labels.tolist(), None, None
    if output.label_set is not None:
        right = output.right(wanted.labels).int().tolist()
    if engine.jury is not None:
        trial, right = engine.jury.clean(part, engine.inputs(part), wanted)
        labels = trial.labels
    engine.records.add(
        Group(
            stage=-1,
            rows=part.tolist(),
            labels=labels,
            targets=None if wanted.targets is None else wanted.targets.tolist(),
            lead=finite(margin(output.logits.detach(), wanted)),
            forward=len(part),
            backward=backward,
            rows_run=rows_run + (0 if trial is None else trial.rows_run),
            seconds=clock.lap(),
            selected=None if trial is None else trial.selected,
            scored=None if trial is None else trial.scored,
            right=right,
            polled=0 if trial is None else trial.passes,
        )
    )

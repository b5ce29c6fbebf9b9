"""Measuring the sanity flags that take passes, on a few examples after the plan has run."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch

from robustkit.attacks import FGSM, PGD, EvasionAttack, Square
from robustkit.attacks._eot import EOT
from robustkit.attacks.steps import input_gradient
from robustkit.attacks.stepwise import Stepwise
from robustkit.errors import DoesNotFit
from robustkit.evaluation import flags, flags_surface
from robustkit.evaluation.blocks import parts
from robustkit.evaluation.flags_sample import Measurement, Site, broken_by, climb
from robustkit.evaluation.guards import every_loss
from robustkit.evaluation.records import finite_or_none
from robustkit.passes import Passes
from robustkit.report import Flag
from robustkit.threat_models import Access, LpBall, ThreatModel, Untargeted, grant

# The share of the examples that tells whether a point more would fall, and more than enough.
_POINTS, _MANY = 0.03, 32
# Shares of what may still be spent, in the order of the measurements.
_SHARES = {"F3": 0.05, "F9": 0.1, "F8": 0.15, "F5": 0.25, "F7": 0.4, "climb": 0.5}
_HUGE_STEPS = 20
_SMALL_STEPS = 5
_QUERIES = (100, 500)
_CLIMB = 10


Found = tuple[list[Flag | None], Measurement]
Probe = Callable[[Site], Found]


def _check(site: Site, attack: EvasionAttack[Any], threat: ThreatModel | None = None) -> None:
    attack.check(threat or site.engine.threat)


def _enough(rows: torch.Tensor) -> torch.Tensor:
    """The same rows.

    Raises:
        DoesNotFit: There are none; the passes that are left do not pay for one.
    """
    if not len(rows):
        raise DoesNotFit("it would have cost more than the evaluation itself.")
    return rows


def _compare(site: Site, steps: int) -> None:
    """Refuse to compare so many steps or queries with attacks that the budget has cut short.

    Raises:
        DoesNotFit: It has.
    """
    limit = site.engine.threat.budget.queries
    if limit is not None and limit < steps:
        raise DoesNotFit(f"the attacks had {limit} queries, too few to compare with {steps}.")


@torch.enable_grad()
def gradients(site: Site) -> Found:
    """Whether gradients are zero and logits tie."""
    rows = _enough(site.affordable(site.hardest, 3, _SHARES["F3"], _MANY))
    dead = top = ties = 0
    cost = Passes()
    for part in parts(rows, site.engine.width):
        meter = site.meter(part, "F3")
        view: Any = grant(meter, Access.GRADIENT)
        inputs = site.engine.inputs(part).requires_grad_()
        logits = view.logits(inputs)
        loss = every_loss(logits, site.engine.objective(part))
        dead += _dead(input_gradient(loss, inputs, keep=True))
        top += _dead(input_gradient(logits.amax(1), inputs))
        largest = logits.detach().topk(min(2, logits.shape[1])).values
        ties += int((largest[:, 0] == largest[:, -1]).sum()) if largest.shape[1] > 1 else 0
        cost += site.pay(meter.ledger)
    told = "standing examples"
    raised = [
        flags.dead_gradients(dead, top, len(rows), told),
        flags.top_ties(ties, len(rows)),
    ]
    return raised, _measurement(
        "F3,F4",
        f"gradients and the two largest logits of the {len(rows)} hardest {told}",
        len(rows),
        cost,
        {"loss_dead": dead, "top_logit_dead": top, "ties": ties},
    )


def _dead(gradient: torch.Tensor) -> int:
    return int((gradient.flatten(1) == 0).all(1).sum())


def single_step(site: Site) -> Found:
    """One large step against several small ones."""
    reverse = not any(line.one_step for line in site.lines)
    attack: Stepwise[Any]
    if reverse:
        if not any(line.attack.access is Access.GRADIENT for line in site.lines):
            raise DoesNotFit("no attack with gradients was run.")
        _compare(site, max((line.steps for line in site.lines), default=0))
        attack, pool = FGSM(), site.hardest
    else:
        attack = PGD(steps=_SMALL_STEPS, loss="margin", random_start=False)
        pool = site.stepped
        if not len(pool):
            raise DoesNotFit("no example fell to a single step.")
    _check(site, attack)
    price = (3 if reverse else 2 * _SMALL_STEPS) + site.judging
    rows = _enough(site.affordable(pool, price, _SHARES["F9"], _MANY))
    broken, cost = broken_by(site, attack, rows, "F9")
    lost = broken if reverse else len(rows) - broken
    told = (
        f"FGSM on the {len(rows)} hardest standing examples"
        if reverse
        else f"{_SMALL_STEPS} steps of PGD on {len(rows)} examples that one step broke"
    )
    return [flags.one_step_wins(lost, len(rows), reverse=reverse)], _measurement(
        "F9", told, len(rows), cost, {"broken": broken}
    )


def huge_radius(site: Site) -> Found:
    """A radius from which a plain grey image can be reached."""
    allowed, threat = site.engine.threat.allowed, site.engine.threat
    if not isinstance(allowed, LpBall) or not isinstance(threat.goal, Untargeted):
        raise DoesNotFit("it is defined for untargeted goals in Lp balls.")
    size = math.prod(site.engine.data.shape)
    half = (allowed.high - allowed.low) / 2
    radius = half * {"linf": 1.0, "l2": math.sqrt(size)}.get(allowed.norm, size)
    wide = threat.with_radius(max(radius, allowed.radius))
    attack = PGD(steps=_HUGE_STEPS, loss="margin", random_start=False)
    _check(site, attack, wide)
    rows = _enough(
        site.affordable(site.hardest, 2 * _HUGE_STEPS + site.judging, _SHARES["F8"], _MANY)
    )
    broken, cost = broken_by(site, attack, rows, "F8", wide)
    share = len(site.hardest) / site.total
    flag = flags.survives_everything(len(rows) - broken, len(rows), share, site.classes, radius)
    told = f"PGD with {_HUGE_STEPS} steps at radius {radius:g} on the {len(rows)} hardest"
    return [flag], _measurement("F8", told, len(rows), cost, {"broken": broken, "radius": radius})


def black_box(site: Site) -> Found:
    """Square on what gradient attacks left standing."""
    line = next((line for line in site.lines if isinstance(line.attack, Square)), None)
    if line is not None and line.through == "direct":
        raise DoesNotFit("the plan has Square itself; see its row.")
    fewest, largest = _QUERIES
    _check(site, Square())
    _compare(site, fewest)
    rows = _enough(site.affordable(site.hardest, fewest + site.judging, _SHARES["F5"], _MANY // 2))
    queries = int(site.left * _SHARES["F5"]) // len(rows) - site.judging
    queries = min(max(queries, fewest), site.engine.threat.budget.queries or largest, largest)
    broken, cost = broken_by(site, Square(queries=queries), rows, "F5")
    flag = flags.black_box_wins(broken, len(rows), queries, sample=True)
    told = f"Square with {queries} queries each on the {len(rows)} hardest standing examples"
    return [flag], _measurement("F5", told, len(rows), cost, {"broken": broken, "queries": queries})


def twice_the_steps(site: Site) -> Found:
    """The longest attack of the plan once more, with twice the steps and a start of its own."""
    lines = [line for line in site.lines if line.through == "direct" and line.steps]
    if not lines:
        raise DoesNotFit("no attack that was run has steps to double.")
    line = max(reversed(lines), key=lambda line: line.steps)
    steps = 2 * line.steps
    _compare(site, steps)
    attack = _once_more(line.attack, steps)
    # Ranking its targets takes at most so many passes more.
    price = 2 * (steps + 6) + site.judging
    enough = max(_MANY, math.ceil(_POINTS * site.total))
    rows = _enough(site.affordable(site.hardest, price, _SHARES["F7"], enough))
    broken, cost = broken_by(site, attack, rows, "F7")
    doubled = f"{line.name} with {steps} steps instead of {steps // 2}"
    flag = flags.not_converged(broken, len(rows), site.total, doubled)
    told = f"{doubled} on the {len(rows)} hardest standing examples"
    return [flag], _measurement("F7", told, len(rows), cost, {"broken": broken, "steps": steps})


def _once_more(attack: EvasionAttack[Any], steps: int) -> EvasionAttack[Any]:
    """The attack with so many steps, and one attempt from a start that the run has not had."""
    if isinstance(attack, EOT):
        return _once_more(attack.attack, steps)
    fields = {field.name for field in dataclasses.fields(attack)}  # type: ignore[arg-type]
    wanted: dict[str, Any] = {"steps": steps, "random_start": True, "restarts": 1}
    if getattr(attack, "targets", 0):
        wanted["targets"] = 1
    again: EvasionAttack[Any] = dataclasses.replace(
        attack,  # type: ignore[type-var]
        **{name: value for name, value in wanted.items() if name in fields},
    )
    return again


def climbs(site: Site) -> Found:
    """The margin along the way of PGD, with steps of three lengths."""
    if getattr(site.engine.threat.allowed, "radius", None) == 0:
        raise DoesNotFit("where nothing may be changed, nothing rises.")
    scales = (0.5, 1.0, 2.0)
    price = 2 * (_CLIMB + 1) * len(scales)
    _check(site, PGD())
    rows = _enough(site.affordable(site.hardest, price, _SHARES["climb"], _MANY // 2))
    gains, cost, flat = [], Passes(), 0
    for scale in scales:
        size = scale * 2.5 / _CLIMB
        attack = PGD(steps=_CLIMB + 1, step_size=size, loss="cross-entropy", random_start=False)
        margins, spent = climb(site, attack, rows, _CLIMB, "climb")
        cost += spent
        gains.append(float((margins.amax(1) - margins[:, 0]).mean()))
        if scale == 1.0:
            end = margins[:, -(_CLIMB // 4 + 1) :].mean(1)
            flat = int((end <= margins[:, 0]).sum())
    raised = [
        flags_surface.flat_loss(flat, len(rows), _CLIMB),
        flags_surface.step_sensitive(gains, len(rows)),
    ]
    told = f"{_CLIMB} steps of PGD, with steps of three lengths, on the {len(rows)} hardest"
    return raised, _measurement(
        "loss-not-rising,step-size",
        told,
        len(rows),
        cost,
        {"flat": flat, **dict(zip(("half", "equal", "double"), gains, strict=True))},
    )


def _measurement(
    flag: str,
    measured: str,
    examples: int,
    cost: Passes,
    values: dict[str, float],
) -> Measurement:
    return Measurement(
        flag=flag,
        measured=measured,
        examples=examples,
        values={name: finite_or_none(value) for name, value in values.items()},
        forward=cost.forward,
        backward=cost.backward,
        rows_run=cost.rows_run,
    )

"""Plans for models that mislead attacks: through stand-ins, averaged over draws, by scores."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from robustkit.attacks import PGD, EvasionAttack, Square, Stepwise
from robustkit.attacks._eot import EOT
from robustkit.errors import BadInput
from robustkit.evaluation.draws import RUNGS
from robustkit.evaluation.plans import Line, Plan
from robustkit.models.frozen import frozen
from robustkit.report import Skipped
from robustkit.threat_models import ThreatModel

# Square at the end: queries, and answers to each by a model that answers at random.
_QUERIES, _VOTES = 5000, 5
# Attacks on averages: the length of a step in radii, and how much of the earlier ones is kept.
_STEP, _MOMENTUM = 1 / 8, 0.75
# Lines that follow the model's own gradient.
_OWN = ("direct", "eot", "warm")


@contextlib.contextmanager
def stand_ins(model: nn.Module, device: torch.device) -> Iterator[Mapping[str, nn.Module]]:
    """The stand-ins that a model names, frozen and in eval mode; afterwards as they were.

    Raises:
        BadInput: Something else than modules on the model's device.
    """
    named = getattr(model, "surrogates", None)
    found = dict(named()) if callable(named) else {}
    with contextlib.ExitStack() as stack:
        for name, module in found.items():
            if not isinstance(module, nn.Module):
                raise BadInput(
                    f"The model's stand-in {name!r} is a {type(module).__name__}; it must be a "
                    "torch.nn.Module."
                )
            if any(tensor.device != device for tensor in (*module.parameters(), *module.buffers())):
                raise BadInput(f"The model's stand-in {name!r} is not on {device} as the model is.")
            stack.enter_context(frozen(module))
        yield found


def adapted(
    lines: Plan,
    model: nn.Module,
    names: Sequence[str],
    threat: ThreatModel,
    *,
    differentiable: bool,
    ends: bool,
) -> tuple[list[Line], list[Skipped]]:
    """A plan that looks behind what a model's own gradients show.

    A model without stand-ins that answers always the same gets the plan as it is. Otherwise, after
    the plan itself:

    1. *transfer*: its gradient attacks through each stand-in, whose gradients and losses they
       follow while success is tested on the model at every step;
    2. *BPDA*: the same with the model's own answers and the gradient of the first stand-in;
    3. *averages*: for a random model, PGD with momentum over 10, 20 and 100 draws on the model
       and through each stand-in; beyond 10 only for examples that averaging has moved;
    4. *warm*: the longest attack on the model itself from where it ended on the first stand-in,
       inside the set around the clean image;
    5. *Square*, with 5,000 queries, by the majority of five answers for a random model.

    For a random model, all gradient attacks make all their steps, and keep their best point.

    Args:
        lines: The plan.
        model: The model.
        names: Its stand-ins, the best one first.
        threat: The adversary.
        differentiable: Whether the model's own answers carry a gradient. Where not, attacks that
            follow it are left out, if there are stand-ins.
        ends: Whether Square is added.

    Returns:
        The lines, and which attacks were left out.
    """
    random = bool(getattr(model, "stochastic", False))
    if not names and not random:
        return list(lines), []
    direct = list(lines)
    if random:
        direct = [
            dataclasses.replace(line, attack=patient(line.attack), lead_left=None) for line in lines
        ]
    climbing = [
        dataclasses.replace(line, lead_left=None) for line in direct if _follows_slopes(line)
    ]
    found = list(direct)
    for name in names:
        found += [_through(line, f"surrogate:{name}") for line in climbing]
    if names:
        found += [_through(line, "bpda") for line in climbing]
    longest = max(climbing, key=lambda line: line.steps, default=None)
    if random and longest is not None:
        found += _averages(longest, names, threat)
    if names and longest is not None and not longest.one_step:
        found.append(_through(longest, "warm"))
    found = _with_square(found, threat, random=random) if ends else found
    return _without_slope(found) if names and not differentiable else (found, [])


def _without_slope(lines: Plan) -> tuple[list[Line], list[Skipped]]:
    """The lines that need no gradient of the model's own, and why the others are left out."""
    reason = "the model's answers carry no gradient; its stand-ins are attacked"
    own = [isinstance(line.attack, Stepwise) and line.through in _OWN for line in lines]
    left_out = dict.fromkeys(line.name for line, dead in zip(lines, own, strict=True) if dead)
    return (
        [line for line, dead in zip(lines, own, strict=True) if not dead],
        [Skipped(name=name, reason=reason) for name in left_out],
    )


def _follows_slopes(line: Line) -> bool:
    """Whether it is a gradient attack that makes steps inside the set."""
    return isinstance(line.attack, Stepwise) and not line.attack.minimises


def patient(attack: EvasionAttack[Any]) -> EvasionAttack[Any]:
    """The attack for a random model: a lucky draw ends no search."""
    if not isinstance(attack, Stepwise) or isinstance(attack, EOT) or attack.minimises:
        return attack
    return EOT(attack=attack, average=1)


def _through(line: Line, through: str) -> Line:
    return dataclasses.replace(line, through=through)


def _averages(longest: Line, names: Sequence[str], threat: ThreatModel) -> list[Line]:
    steps = max(longest.steps, 1)
    # With fewer than 20 steps, shorter ones would not cross the set.
    length = max(_STEP, 2.5 / steps)
    pgd = PGD(loss="margin", steps=steps, step_size=length, momentum=_MOMENTUM)
    limit = threat.budget.queries
    return [
        Line(name="pgd", attack=EOT(attack=pgd, average=draws), through=through)
        for draws in RUNGS
        if limit is None or draws < limit
        for through in ("eot", *(f"surrogate:{name}" for name in names))
    ]


def _with_square(lines: list[Line], threat: ThreatModel, *, random: bool) -> list[Line]:
    square = Square(queries=_QUERIES, votes=_VOTES if random else 1)
    if square.why_not(threat) is not None:
        return lines
    # What the plan has of Square moves to the end.
    others = [line for line in lines if not isinstance(line.attack, Square)]
    return [*others, Line(name="square", attack=square)]

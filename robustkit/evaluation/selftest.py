"""Do attacks do what they claim? They are tried where the answer is known, faulty ones too.

An attack that is too weak makes every model look robust, and nothing fails: no error, no zero
gradient. Here each gradient attack is compared with a plain reference on real images of which half
of the values are exactly 0 or 1, and again on the same images moved away from both ends of the
range. What goes wrong at the ends only, a clamp inside the differentiated graph above all, shows as
a difference between the two.
"""

import dataclasses
import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from robustkit.attacks import APGD, FMN, PGD, EvasionAttack, describe, name_of
from robustkit.errors import BadInput, DoesNotFit, MissingFile, RobustkitError
from robustkit.evaluation.selftest_faults import ClampInside, Recentred, Unclamped
from robustkit.evaluation.selftest_tasks import EXAMPLES, RADII, SEED, Norm, Task, task_of
from robustkit.models.frozen import frozen
from robustkit.randomness import Streams
from robustkit.threat_models import Objective

# An attack may leave one point more standing than the reference.
_WEAKER = 0.01
# One that starts elsewhere or climbs another loss ends at other points: so many.
_OTHER_WAY = 0.05
# Twice the steps, steps of another length, or another start may change as much.
_UNSETTLED = 0.03


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was tried.

    Attributes:
        attack: The attack.
        name: What was checked, and in which norm.
        found: What was seen.
        wanted: What was to be seen.
        passed: Whether it was.
        hint: What a failure means; empty where it was passed.
    """

    attack: str
    name: str
    found: str
    wanted: str
    passed: bool
    hint: str = ""


OWN: tuple[EvasionAttack[Any], ...] = (
    PGD(random_start=False),
    PGD(loss="margin"),
    APGD(steps=50),
    APGD(steps=20, loss="dlr", targets=3),
    APGD(steps=20, loss="margin", targets=3, ranking="nearest"),
    FMN(),
)
FAULTY: tuple[EvasionAttack[Any], ...] = (ClampInside(), Recentred(), Unclamped())


def selftest(attack: EvasionAttack[Any] | None = None) -> Iterator[Check]:
    """Check our gradient attacks, and that planted faults are caught; or check one attack.

    Args:
        attack: An attack to be checked; None for our own and the planted faults.

    Yields:
        The checks, as they are made; all is well if all have passed.

    Raises:
        DoesNotFit: The attack works neither in linf nor in l2, or needs a targeted goal.
    """
    if attack is not None:
        yield from examine(attack)
        return
    for own in OWN:
        yield from examine(own)
    for fault in FAULTY:
        yield _caught(fault)


def examine(attack: EvasionAttack[Any]) -> Iterator[Check]:
    """All checks that fit one attack."""
    norms = [norm for norm in RADII if attack.why_not(task_of(norm, "ends").threat) is None]
    if not norms:
        reason = attack.why_not(task_of("linf", "ends").threat)
        raise DoesNotFit(
            f"The attack {_words(attack)} cannot be checked: {reason}. The self-test has "
            "untargeted goals in linf and l2."
        )
    for norm in norms:
        done = list(_basic(attack, norm))
        yield from (check for _, check in done)
        if norm == norms[0]:
            yield from _settled(attack, norm, done[0][0])


def _basic(attack: EvasionAttack[Any], norm: Norm) -> Iterator[tuple[float, Check]]:
    """Whether an attack keeps the rules and is as strong as plain PGD; what it leaves standing."""
    ends, outside = _accuracy(attack, task_of(norm, "ends"))
    yield ends, _allowed(attack, norm, outside)
    middle, _ = _accuracy(attack, task_of(norm, "middle"))
    for check in _compared(attack, norm, ends, middle):
        yield ends, check


def _allowed(attack: EvasionAttack[Any], norm: str, outside: int) -> Check:
    return Check(
        attack=_words(attack),
        name=f"{norm}: stays in the set",
        found=f"{outside} of {EXAMPLES} outside",
        wanted="0",
        passed=not outside,
        hint="It hands back points that the threat model does not allow: project around the clean "
        "image and into the value range before returning."
        if outside
        else "",
    )


def _compared(
    attack: EvasionAttack[Any], norm: Norm, ends: float, middle: float
) -> Iterator[Check]:
    """The attack against plain PGD, away from the ends of the value range and at them."""
    options = describe(attack)
    same = options.get("loss") == "cross-entropy" and options.get("random_start") is False
    weaker = max(0.0, middle - task_of(norm, "middle").reference)
    limit = task_of(norm, "middle").reference + (_WEAKER if same else _OTHER_WAY)
    yield Check(
        attack=_words(attack),
        name=f"{norm}: values away from 0 and 1",
        found=f"{middle:.1%} robust",
        wanted=f"at most {limit:.1%}",
        passed=middle <= limit,
        hint=""
        if middle <= limit
        else "It is weaker than plain PGD: more steps, another step size, or a fault.",
    )
    # How much weaker it is there, it may be here.
    limit = task_of(norm, "ends").reference + weaker + (_WEAKER if same else _UNSETTLED)
    yield Check(
        attack=_words(attack),
        name=f"{norm}: values at 0 and 1",
        found=f"{ends:.1%} robust",
        wanted=f"at most {limit:.1%}",
        passed=ends <= limit,
        hint=""
        if ends <= limit
        else "It is weaker where values are 0 or 1. The usual cause is a clamp inside the "
        "differentiated graph, which takes the gradient from every value that it cuts: clamp the "
        "point first, and differentiate at the clamped point.",
    )


def _settled(attack: EvasionAttack[Any], norm: Norm, ends: float) -> Iterator[Check]:
    """Twice the steps, and steps of other lengths."""
    task = task_of(norm, "ends")
    for name, other in _variants(attack):
        left, _ = _accuracy(other, task)
        # Only what breaks more speaks against the attack as it is.
        passed = ends - left <= _UNSETTLED
        yield Check(
            attack=_words(attack),
            name=f"{norm}: {name}",
            found=f"{left:.1%} robust",
            wanted=f"at least {ends - _UNSETTLED:.1%}",
            passed=passed,
            hint="" if passed else "Its verdict depends on this setting: it has not converged.",
        )


def _variants(attack: EvasionAttack[Any]) -> Iterator[tuple[str, EvasionAttack[Any]]]:
    """The same attack with other settings, as far as it has them."""
    if not dataclasses.is_dataclass(attack):
        return
    steps = getattr(attack, "steps", None)
    if not isinstance(steps, int):
        return
    yield "twice the steps", dataclasses.replace(attack, steps=2 * steps)
    if hasattr(attack, "step_size") and not attack.minimises:
        size = attack.step_size or 2.5 / steps
        for factor, name in ((0.5, "half"), (2.0, "double")):
            yield f"steps of {name} length", dataclasses.replace(attack, step_size=factor * size)


def _caught(fault: EvasionAttack[Any]) -> Check:
    """Whether an attack with a planted fault fails at least one check, and which."""
    norms = list(RADII)
    failed = [c.name for norm in norms for _, c in _basic(fault, norm) if not c.passed]
    return Check(
        attack=type(fault).__name__,
        name="planted fault",
        found=", ".join(failed) or "not caught",
        wanted="caught",
        passed=bool(failed),
        hint="" if failed else "The self-test does not see this fault any more: do not trust it.",
    )


def _words(attack: EvasionAttack[Any]) -> str:
    """The attack and the options that differ from its defaults."""
    fields: tuple[dataclasses.Field[Any], ...] = ()
    if dataclasses.is_dataclass(attack):
        fields = dataclasses.fields(attack)
    defaults: dict[str, object] = {field.name: field.default for field in fields}
    changed = [
        f"{name}={value}"
        for name, value in describe(attack).items()
        if name in defaults and value != defaults[name]
    ]
    return " ".join([name_of(attack), *changed])


def _accuracy(attack: EvasionAttack[Any], task: Task) -> tuple[float, int]:
    """The share of examples that stand, and how many points lie outside the set."""
    ids = torch.arange(len(task.inputs))
    streams = Streams.of(seed=SEED, ids=ids, purpose="selftest")
    objective = Objective(task.labels)
    allowed = task.threat.allowed
    with frozen(task.model):
        view: Any = task.threat.view(task.model, streams)
        try:
            points = attack.run(view, task.inputs, objective, allowed, streams=streams)
        except RobustkitError:
            raise
        except Exception as error:  # the user's own code, which may raise anything
            raise BadInput(
                f"The attack {_words(attack)} failed: {type(error).__name__}: {error}."
            ) from error
        verdict = task.threat.judge(
            task.model, task.inputs, points, objective, torch.zeros_like(ids)
        )
        right = task.model(task.inputs).argmax(1) == task.labels
    # What looks for the nearest point measures distances, and may hand back one from outside.
    outside = 0 if attack.minimises else int((~verdict.allowed).sum())
    return float((right & ~verdict.achieved).double().mean()), outside


def attack_from_code(spec: str) -> EvasionAttack[Any]:
    """The attack that a function or class of the user's makes. This runs that code.

    Args:
        spec: `package.module:factory`; the working directory comes last where modules are looked
            for. The attribute may be an attack itself, or anything that gives one when it is called
            with nothing.

    Raises:
        MissingFile: There is no such module.
        BadInput: The code raises, has no such attribute, or gives something else than an attack.
    """
    module_name, colon, attribute = spec.partition(":")
    if not (module_name and colon and attribute):
        raise BadInput(f"{spec!r} names no attack. Write package.module:factory.")
    before = list(sys.path)
    sys.path.append(str(Path.cwd()))
    try:
        found: object = getattr(importlib.import_module(module_name), attribute)
        found = found if isinstance(found, EvasionAttack) else found()  # type: ignore[operator]
    except ModuleNotFoundError as error:
        raise MissingFile(f"There is no module {error.name!r}, needed for {spec!r}.") from error
    except RobustkitError:
        raise
    except Exception as error:  # the user's own code, which may raise anything
        raise BadInput(f"{spec!r} gives no attack: {type(error).__name__}: {error}.") from error
    finally:
        sys.path[:] = before
    if not isinstance(found, EvasionAttack):
        raise BadInput(f"{spec!r} gives a {type(found).__name__}, and no EvasionAttack.")
    return found

"""Which attacks are run when none are named: ordered lists, kept as data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from robustkit.attacks import FGSM, EvasionAttack, StepLL, Stepwise, build
from robustkit.attacks._eot import EOT
from robustkit.errors import UnknownName
from robustkit.evaluation.blocks import narrow
from robustkit.threat_models import Access, ThreatModel, Untargeted

Role = Literal["plan", "distances", "reference"]

# The share of a lead below which next to no examples are.
_RARE = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One attack of a plan.

    Attributes:
        name: What users call it.
        attack: The attack.
        lead_left: It is given only the examples of whose lead (how far the right class is ahead in
            the logits) the attacks before it have left at most this share, and those that none of
            them has moved; None for all.
        through: What it is pointed at, as `AttackRow.through` says it.
        role: `plan`; or `distances`: it measures all examples that were right at first, for the
            curve over the radius; or `reference`: it says what others still break, apart from the
            cost.
    """

    name: str
    attack: EvasionAttack[Any]
    lead_left: float | None = None
    through: str = "direct"
    role: Role = "plan"

    def width(self, whole: int) -> int:
        """Rows in which the model is run, of the `whole` width of the run."""
        if self.lead_left is None:
            return whole
        return narrow(whole, 8 if self.lead_left <= _RARE else 4)

    @property
    def steps(self) -> int:
        """How many steps an attempt of a gradient attack is told to make; 0 for what is not."""
        attack = self._climber
        steps = getattr(attack, "steps", 0) if isinstance(attack, Stepwise) else 0
        return steps if isinstance(steps, int) else 0

    @property
    def one_step(self) -> bool:
        """Whether it is a gradient attack that makes a single step."""
        return isinstance(self._climber, (FGSM, StepLL)) or self.steps == 1

    @property
    def _climber(self) -> EvasionAttack[Any]:
        """What makes the steps, be they on averages."""
        return self.attack.attack if isinstance(self.attack, EOT) else self.attack


Plan = Sequence[Line]


def by_stand_in(through: str) -> bool:
    """Whether a stand-in of the model has a part in what a line is pointed at."""
    return through.startswith("surrogate:") or through in ("bpda", "warm")


# Name, options, lead left. Cheap attacks first: an example that has fallen is not attacked again,
# and effort goes where little of the lead is left. Nearly all attempts that fail show it within a
# quarter of their steps; given up there, they leave the rest to others.
_Words = tuple[str, Mapping[str, str], float | None]

# A weak model falls to a few steps; on a strong one, the nearest class of the linearised model is
# where most examples fall that fall at all.
_NEAREST: tuple[_Words, ...] = (
    ("fgsm", {}, None),
    ("pgd", {"loss": "margin", "steps": "8", "random_start": "false"}, None),
    (
        "apgd",
        {
            "loss": "margin",
            "targets": "1",
            "ranking": "nearest",
            "steps": "20",
            "random_start": "false",
            "give_up": "0.15",
        },
        None,
    ),
)

# Where gradients around the image mislead, in a larger ball than the model was trained for, these
# starts reach what otherwise only random search does.
_SHIFTED = {
    "loss": "margin",
    "steps": "20",
    "shift_start": "true",
    "restarts": "2",
    "give_up": "0.15",
}

_CROSS_ENTROPY = {"loss": "cross-entropy", "steps": "40", "give_up": "0.1"}

_MARGIN = {"loss": "margin", "steps": "100", "give_up": "0.1"}

_AT = {"loss": "margin", "ranking": "nearest"}
_LIKELY = {**_AT, "targets": "3", "steps": "20", "give_up": "0.15"}
_ALL_CLASSES = {**_AT, "targets": "9", "steps": "50", "give_up": "0.1"}
_NEAREST_AGAIN = {**_AT, "targets": "1", "steps": "200", "give_up": "0.1"}

FAST: tuple[_Words, ...] = (
    *_NEAREST,
    ("apgd", _SHIFTED, 0.7),
    ("apgd", _CROSS_ENTROPY, 0.5),
    ("apgd", _LIKELY, 0.3),
    ("apgd", _MARGIN, 0.1),
    ("apgd", _ALL_CLASSES, 0.05),
    ("apgd", _NEAREST_AGAIN, 0.05),
)

STANDARD: tuple[_Words, ...] = (
    *_NEAREST,
    ("apgd", _SHIFTED, 0.7),
    ("apgd", _CROSS_ENTROPY, 0.7),
    ("apgd", _LIKELY, 0.4),
    ("apgd", _MARGIN, 0.2),
    ("apgd", _ALL_CLASSES, 0.15),
    ("apgd", {**_NEAREST_AGAIN, "restarts": "3"}, 0.1),
)

THOROUGH: tuple[_Words, ...] = (
    *_NEAREST,
    ("apgd", {"loss": "cross-entropy", "steps": "100"}, None),
    ("apgd", {"loss": "margin", "targets": "9", "ranking": "nearest", "steps": "50"}, None),
    ("apgd", {"loss": "dlr", "targets": "9", "steps": "100"}, 0.7),
    ("square", {"queries": "5000"}, None),
)

# In l1, narrow balls are where searches get stuck: attempts begin in wide ones, and how much of the
# lead the first lines have left says little.
_WIDE = {"steps": "60", "wide_start": "true", "give_up": "0.1"}
_WIDE_AT = {**_WIDE, **_AT}

L1: Mapping[str, tuple[_Words, ...]] = MappingProxyType(
    {
        "fast": (
            *_NEAREST,
            ("apgd", {**_WIDE, "loss": "cross-entropy"}, None),
            ("apgd", {**_WIDE_AT, "targets": "3", "steps": "40"}, 0.5),
            ("apgd", {**_WIDE_AT, "targets": "9"}, 0.1),
        ),
        "standard": (
            *_NEAREST,
            ("apgd", {**_WIDE, "loss": "cross-entropy"}, None),
            ("apgd", {**_WIDE_AT, "targets": "3", "steps": "40"}, 0.7),
            ("apgd", {**_WIDE, "loss": "margin"}, 0.5),
            ("apgd", {**_WIDE_AT, "targets": "9"}, 0.3),
        ),
        "thorough": (
            *_NEAREST,
            ("apgd", {"loss": "cross-entropy", "wide_start": "true"}, None),
            ("apgd", {"loss": "margin", "wide_start": "true"}, None),
            ("apgd", {**_WIDE_AT, "targets": "9", "steps": "100", "give_up": "0"}, None),
        ),
    }
)

# Without gradients; the norm decides, and the first that fits is run.
LABELS: tuple[_Words, ...] = (("cgba", {}, None), ("rays", {}, None))
LABELS_TARGETED: tuple[_Words, ...] = (("cgba-h", {}, None), ("hop-skip-jump", {}, None))
SCORES: tuple[_Words, ...] = (("square", {}, None),)

PLANS: Mapping[str, tuple[_Words, ...]] = MappingProxyType(
    {"fast": FAST, "standard": STANDARD, "thorough": THOROUGH}
)


def fast() -> tuple[_Words, ...]:
    """The plan for a first look.

    Weak models fall to its first two lines. Of strong ones it finds nearly all that can be found,
    since most examples fall towards the class whose boundary is nearest if the model is linear.
    """
    return PLANS["fast"]


def standard() -> tuple[_Words, ...]:
    """The plan that runs when none is named.

    Nearest classes first, then other starts, losses and classes for the examples of whose lead
    little is left: where the attacks so far have hardly moved the model, others rarely succeed.
    """
    return PLANS["standard"]


def thorough() -> tuple[_Words, ...]:
    """The plan for a last word: many steps, all classes, and Square, which needs no gradients."""
    return PLANS["thorough"]


def plan(name: str, threat: ThreatModel) -> list[Line]:
    """The plan of this name for a threat model, in order.

    Where the adversary sees no gradients, all plans are the same.

    Raises:
        UnknownName: There is no such plan.
    """
    if name not in PLANS:
        raise UnknownName("plan", name, PLANS)
    words = _entries(name, threat.allowed.norm)
    if threat.access < Access.GRADIENT:
        words = LABELS if isinstance(threat.goal, Untargeted) else LABELS_TARGETED
    if threat.access is Access.SCORE:
        words = (*SCORES, *words)
    lines = [
        Line(name=attack, attack=build(attack, options), lead_left=left)
        for attack, options, left in words
    ]
    return lines if threat.access is Access.GRADIENT else _up_to_the_first(lines, threat)


def _up_to_the_first(lines: list[Line], threat: ThreatModel) -> list[Line]:
    """The lines as far as the first one that fits: it is given the whole budget of queries."""
    fitting = (place for place, line in enumerate(lines) if line.attack.why_not(threat) is None)
    return lines[: next(fitting, len(lines)) + 1]


def _entries(name: str, norm: str) -> tuple[_Words, ...]:
    return L1.get(name, PLANS[name]) if norm == "l1" else PLANS[name]


def words(name: str, norm: str = "linf") -> list[str]:
    """The lines of a plan as people read them."""
    return [
        f"{attack}"
        + "".join(f" {key}={value}" for key, value in options.items())
        + ("" if left is None else f", where at most {left:.0%} of the lead is left")
        for attack, options, left in _entries(name, norm)
    ]


def split(lines: Plan, threat: ThreatModel) -> tuple[list[Line], list[tuple[str, str]]]:
    """The lines of a plan that fit the threat model, and the others with the reason why not."""
    reasons = [(line, line.attack.why_not(threat)) for line in lines]
    fitting = [line for line, reason in reasons if reason is None]
    return fitting, [(line.name, reason) for line, reason in reasons if reason is not None]

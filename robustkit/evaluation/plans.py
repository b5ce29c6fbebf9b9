"""Which attacks are run when none are named: ordered lists, kept as data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from robustkit.attacks import EvasionAttack, build
from robustkit.errors import UnknownName
from robustkit.threat_models import Access, ThreatModel, Untargeted


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One attack of a plan.

    Attributes:
        name: What users call it.
        attack: The attack.
        lead_left: It is given only the examples of whose lead (how far the right class is ahead in
            the logits) the attacks before it have left at most this share; None for all.
        through: What it is pointed at, as `AttackRow.through` says it.
    """

    name: str
    attack: EvasionAttack[Any]
    lead_left: float | None = None
    through: str = "direct"


Plan = Sequence[Line]

# Name, options, lead left. Cheap attacks first: an example that has fallen is not attacked again,
# and effort goes where little of the lead is left.
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
        },
        None,
    ),
)

FAST: tuple[_Words, ...] = (
    *_NEAREST,
    ("apgd", {"loss": "margin", "targets": "3", "ranking": "nearest", "steps": "20"}, 0.5),
)

STANDARD: tuple[_Words, ...] = (
    *_NEAREST,
    ("pgd", {"loss": "cross-entropy", "steps": "20"}, None),
    ("apgd", {"loss": "margin", "targets": "3", "ranking": "nearest", "steps": "20"}, 0.7),
    ("apgd", {"loss": "cross-entropy", "steps": "50"}, 0.5),
    (
        "apgd",
        {
            "loss": "dlr",
            "targets": "3",
            "ranking": "nearest",
            "steps": "50",
        },
        0.3,
    ),
)

THOROUGH: tuple[_Words, ...] = (
    *_NEAREST,
    ("apgd", {"loss": "cross-entropy", "steps": "100"}, None),
    ("apgd", {"loss": "margin", "targets": "9", "ranking": "nearest", "steps": "50"}, None),
    ("apgd", {"loss": "dlr", "targets": "9", "steps": "100"}, 0.7),
    ("square", {"queries": "5000"}, None),
)

# Without gradients; the norm decides which of them fits.
LABELS: tuple[_Words, ...] = (("cgba", {}, None), ("rays", {}, None))
LABELS_TARGETED: tuple[_Words, ...] = (("cgba-h", {}, None),)

PLANS: Mapping[str, tuple[_Words, ...]] = MappingProxyType(
    {"fast": FAST, "standard": STANDARD, "thorough": THOROUGH}
)


def plan(name: str, threat: ThreatModel) -> list[Line]:
    """The plan of this name for a threat model, in order.

    Where the adversary sees no gradients, all plans are the same.

    Raises:
        UnknownName: There is no such plan.
    """
    if name not in PLANS:
        raise UnknownName("plan", name, PLANS)
    words = PLANS[name]
    if threat.access < Access.GRADIENT:
        words = LABELS if isinstance(threat.goal, Untargeted) else LABELS_TARGETED
    return [
        Line(name=attack, attack=build(attack, options), lead_left=left)
        for attack, options, left in words
    ]


def split(lines: Plan, threat: ThreatModel) -> tuple[list[Line], list[tuple[str, str]]]:
    """The lines of a plan that fit the threat model, and the others with the reason why not."""
    reasons = [(line, line.attack.why_not(threat)) for line in lines]
    fitting = [line for line, reason in reasons if reason is None]
    return fitting, [(line.name, reason) for line, reason in reasons if reason is not None]

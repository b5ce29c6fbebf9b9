"""Which attacks are run when none are named: ordered lists, kept as data."""

from typing import Any

from robustkit.attacks import EvasionAttack, build
from robustkit.threat_models import Access, ThreatModel, Untargeted

Plan = list[tuple[str, EvasionAttack[Any]]]

# Cheap attacks first: an example that has fallen is not attacked again.
STANDARD: tuple[tuple[str, dict[str, str]], ...] = (
    ("fgsm", {}),
    ("pgd", {"loss": "margin", "steps": "20", "random_start": "false"}),
    ("pgd", {"loss": "cross-entropy", "steps": "40"}),
    ("pgd", {"loss": "dlr", "steps": "100", "restarts": "2", "momentum": "0.75"}),
)


# Without gradients; the norm decides which of them fits.
LABELS: tuple[tuple[str, dict[str, str]], ...] = (("cgba", {}), ("rays", {}))
LABELS_TARGETED: tuple[tuple[str, dict[str, str]], ...] = (("cgba-h", {}),)


def standard(threat: ThreatModel) -> Plan:
    """The plan that runs when no attacks are named: (registry name, attack), in order."""
    lines = STANDARD
    if threat.access < Access.GRADIENT:
        lines = LABELS if isinstance(threat.goal, Untargeted) else LABELS_TARGETED
    return [(name, build(name, options)) for name, options in lines]


def split(plan: Plan, threat: ThreatModel) -> tuple[Plan, list[tuple[str, str]]]:
    """The attacks of a plan that fit the threat model, and the others with the reason why not."""
    reasons = [(name, attack, attack.why_not(threat)) for name, attack in plan]
    fitting = [(name, attack) for name, attack, reason in reasons if reason is None]
    return fitting, [(name, reason) for name, _, reason in reasons if reason is not None]

"""Methods that make data unlearnable, from the words of a command line, and back."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from robustkit import registry, threat_models
from robustkit.attacks.base import PoisoningAttack
from robustkit.errors import DoesNotFit
from robustkit.threat_models import ThreatModel
from robustkit.training import options
from robustkit.training.describing import describe as as_json
from robustkit.unlearnable.keys import Key

# In this order: the first under which a method works is its own.
PRESETS = ("unlearnable", "unlearnable-linf", "unlearnable-l2")


def build(name: str, table: Mapping[str, object], *, key: Key | None = None) -> PoisoningAttack:
    """The method that a name means.

    Args:
        name: As in `robustkit list unlearnable`.
        table: Its options: whole numbers, numbers, fractions in quotes, true or false, words.
        key: For methods that have one; others do without.

    Raises:
        UnknownName: Nothing is called so.
        BadInput: An option that the method does not have, or a value that it does not take.

    Example:
        >>> build("cuda", {"p_b": 0.1}, key=Key(bytes(range(16)))).p_b
        0.1
    """
    kind: type[PoisoningAttack] = registry.find("unlearnable", name).load()
    return options.build(kind, table, where=f"The method {name!r}", given={"key": key})


def describe(method: PoisoningAttack) -> dict[str, Any]:
    """The options of a method as JSON, defaults included; a key is none of them.

    Example:
        >>> describe(build("cuda", {}, key=Key(bytes(range(16)))))
        {'p_b': 0.3, 'rounding': 'floor', 'legacy_seed': None}
    """
    if not dataclasses.is_dataclass(method):
        return {}
    values = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    return {
        name: as_json(value)
        for name, value in values.items()
        if name != "key" and not isinstance(value, Key)
    }


def preset(method: PoisoningAttack) -> ThreatModel:
    """The first preset under which a method works.

    Raises:
        DoesNotFit: There is none; a threat model must be given.
    """
    found = [threat_models.load(name) for name in PRESETS]
    for threat in found:
        if method.why_not(threat) is None:
            return threat
    raise DoesNotFit(
        f"{type(method).__name__} fits none of the presets {', '.join(PRESETS)}: "
        f"{method.why_not(found[0])}. Name a threat model."
    )

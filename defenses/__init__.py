"""Defenses of classifiers, and the baselines they are compared with."""

from typing import TYPE_CHECKING

from robustkit.lazy import exports

# A public name is written twice: below for type checkers (`from x import Name as Name`), and in
# the table for Python, which imports it on first use.
if TYPE_CHECKING:
    from robustkit.defenses._criticality import Criticality as Criticality
    from robustkit.defenses._rift_report import RiFTReport as RiFTReport
    from robustkit.defenses.base import Defended as Defended
    from robustkit.defenses.base import Defense as Defense
    from robustkit.defenses.guards import buffers_kept as buffers_kept
    from robustkit.defenses.rift import RiFT as RiFT
    from robustkit.defenses.rift import Tuned as Tuned
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "Criticality": "_criticality",
            "Defended": "base",
            "Defense": "base",
            "RiFT": "rift",
            "RiFTReport": "_rift_report",
            "Tuned": "rift",
            "buffers_kept": "guards",
        },
    )

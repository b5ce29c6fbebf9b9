"""A workbench for adversarial robustness in which one threat model connects everything."""

from importlib.metadata import version
from typing import TYPE_CHECKING

from robustkit.lazy import exports

__version__ = version("robustkit")

# A public name is written twice: below for type checkers (`from x import Name as Name`), and in
# the table for Python, which imports it on first use.
if TYPE_CHECKING:
    from robustkit.evaluation import evaluate as evaluate
    from robustkit.report import Report as Report
    from robustkit.threat_models import ThreatModel as ThreatModel
    from robustkit.training import Trainer as Trainer
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "Report": "report",
            "ThreatModel": "threat_models",
            "Trainer": "training",
            "evaluate": "evaluation",
        },
    )

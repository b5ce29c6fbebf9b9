"""Evaluation: one scenario per stage at which the adversary acts."""

from typing import TYPE_CHECKING

from robustkit.lazy import exports

# A public name is written twice: below for type checkers (`from x import Name as Name`), and in
# the table for Python, which imports it on first use.
if TYPE_CHECKING:
    from robustkit.evaluation.corruptions import evaluate_corruptions as evaluate_corruptions
    from robustkit.evaluation.evasion import evaluate as evaluate
    from robustkit.evaluation.progress import Progress as Progress
    from robustkit.evaluation.shards import OthersAtWork as OthersAtWork
    from robustkit.evaluation.shards import Share as Share
    from robustkit.evaluation.shards import Unfinished as Unfinished
    from robustkit.evaluation.unlearnable import Origin as Origin
    from robustkit.evaluation.unlearnable import evaluate_unlearnable as evaluate_unlearnable
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "evaluate_corruptions": "corruptions",
            "Progress": "progress",
            "evaluate": "evasion",
            "OthersAtWork": "shards",
            "Share": "shards",
            "Unfinished": "shards",
            "Origin": "unlearnable",
            "evaluate_unlearnable": "unlearnable",
        },
    )

"""What a trainer lowers: small objects, those with an adversary take a threat model."""

from typing import TYPE_CHECKING

from robustkit.lazy import exports

# A public name is written twice: below for type checkers (`from x import Name as Name`), and in
# the table for Python, which imports it on first use.
if TYPE_CHECKING:
    from robustkit.training.losses.adversarial import Adversarial as Adversarial
    from robustkit.training.losses.awp import AWP as AWP
    from robustkit.training.losses.base import Loss as Loss
    from robustkit.training.losses.base import bare as bare
    from robustkit.training.losses.base import held as held
    from robustkit.training.losses.base import logits_of as logits_of
    from robustkit.training.losses.distillation import Distillation as Distillation
    from robustkit.training.losses.early_learning import EarlyLearning as EarlyLearning
    from robustkit.training.losses.entropy import EntropyPenalty as EntropyPenalty
    from robustkit.training.losses.fast import FastTraining as FastTraining
    from robustkit.training.losses.free import FreeTraining as FreeTraining
    from robustkit.training.losses.mart import MART as MART
    from robustkit.training.losses.pgd import PGDTraining as PGDTraining
    from robustkit.training.losses.standard import CrossEntropy as CrossEntropy
    from robustkit.training.losses.standard import cross_entropy as cross_entropy
    from robustkit.training.losses.trades import TRADES as TRADES
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "AWP": "awp",
            "Adversarial": "adversarial",
            "CrossEntropy": "standard",
            "Distillation": "distillation",
            "EarlyLearning": "early_learning",
            "EntropyPenalty": "entropy",
            "FastTraining": "fast",
            "FreeTraining": "free",
            "Loss": "base",
            "MART": "mart",
            "PGDTraining": "pgd",
            "TRADES": "trades",
            "bare": "base",
            "cross_entropy": "standard",
            "held": "base",
            "logits_of": "base",
        },
    )

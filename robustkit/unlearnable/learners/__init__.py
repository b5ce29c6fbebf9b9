"""Learners: what might be done with published data by those who are not meant to learn from it."""

from typing import TYPE_CHECKING

from robustkit.lazy import exports

# A public name is written twice: below for type checkers (`from x import Name as Name`), and in
# the table for Python, which imports it on first use.
if TYPE_CHECKING:
    from robustkit.unlearnable.learners.adversarial import L2Training as L2Training
    from robustkit.unlearnable.learners.adversarial import LinfTraining as LinfTraining
    from robustkit.unlearnable.learners.base import Learner as Learner
    from robustkit.unlearnable.learners.base import Lesson as Lesson
    from robustkit.unlearnable.learners.building import BATTERY as BATTERY
    from robustkit.unlearnable.learners.building import build as build
    from robustkit.unlearnable.learners.coin import COIN as COIN
    from robustkit.unlearnable.learners.features import PretrainedFeatures as PretrainedFeatures
    from robustkit.unlearnable.learners.key_leak import KeyLeak as KeyLeak
    from robustkit.unlearnable.learners.plain import ERM as ERM
    from robustkit.unlearnable.learners.plain import CropFlip as CropFlip
    from robustkit.unlearnable.learners.plain import CutMixLearner as CutMixLearner
    from robustkit.unlearnable.learners.plain import MixUpLearner as MixUpLearner
    from robustkit.unlearnable.learners.projection import (
        OrthogonalProjection as OrthogonalProjection,
    )
    from robustkit.unlearnable.learners.rsk_ff import RSKFF as RSKFF
    from robustkit.unlearnable.learners.squeezing import JPEG as JPEG
    from robustkit.unlearnable.learners.squeezing import Grayscale as Grayscale
    from robustkit.unlearnable.learners.ueraser import UEraser as UEraser
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "BATTERY": "building",
            "COIN": "coin",
            "CropFlip": "plain",
            "CutMixLearner": "plain",
            "ERM": "plain",
            "Grayscale": "squeezing",
            "JPEG": "squeezing",
            "KeyLeak": "key_leak",
            "L2Training": "adversarial",
            "Learner": "base",
            "Lesson": "base",
            "LinfTraining": "adversarial",
            "MixUpLearner": "plain",
            "OrthogonalProjection": "projection",
            "PretrainedFeatures": "features",
            "RSKFF": "rsk_ff",
            "UEraser": "ueraser",
            "build": "building",
        },
    )

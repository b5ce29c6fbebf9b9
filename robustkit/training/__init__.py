"""One trainer for everything that learns, and the losses it lowers."""

from typing import TYPE_CHECKING

from robustkit.lazy import exports

# A public name is written twice: below for type checkers (`from x import Name as Name`), and in
# the table for Python, which imports it on first use.
if TYPE_CHECKING:
    from robustkit.training.augmentation import Augmentation as Augmentation
    from robustkit.training.augmentation import Crop as Crop
    from robustkit.training.augmentation import CutMix as CutMix
    from robustkit.training.augmentation import Flip as Flip
    from robustkit.training.augmentation import Hide as Hide
    from robustkit.training.augmentation import MixUp as MixUp
    from robustkit.training.augmentation import RandAugment as RandAugment
    from robustkit.training.augmentation import TrivialAugment as TrivialAugment
    from robustkit.training.averaging import Averaging as Averaging
    from robustkit.training.batch import Batch as Batch
    from robustkit.training.history import Progress as Progress
    from robustkit.training.mixing import Extra as Extra
    from robustkit.training.optimizers import SGD as SGD
    from robustkit.training.optimizers import AdamW as AdamW
    from robustkit.training.result import Snapshot as Snapshot
    from robustkit.training.result import TrainResult as TrainResult
    from robustkit.training.runtime import Runtime as Runtime
    from robustkit.training.schedules import AccuracyGradient as AccuracyGradient
    from robustkit.training.schedules import Constant as Constant
    from robustkit.training.schedules import Cosine as Cosine
    from robustkit.training.schedules import OneCycle as OneCycle
    from robustkit.training.schedules import Plateau as Plateau
    from robustkit.training.schedules import Schedule as Schedule
    from robustkit.training.schedules import Step as Step
    from robustkit.training.selection import CleanAccuracy as CleanAccuracy
    from robustkit.training.selection import RobustAccuracy as RobustAccuracy
    from robustkit.training.selection import Selection as Selection
    from robustkit.training.trainer import Trainer as Trainer
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "AccuracyGradient": "schedules",
            "AdamW": "optimizers",
            "Augmentation": "augmentation",
            "Averaging": "averaging",
            "Batch": "batch",
            "CleanAccuracy": "selection",
            "Constant": "schedules",
            "Cosine": "schedules",
            "Crop": "augmentation",
            "CutMix": "augmentation",
            "Extra": "mixing",
            "Flip": "augmentation",
            "Hide": "augmentation",
            "MixUp": "augmentation",
            "OneCycle": "schedules",
            "Plateau": "schedules",
            "Progress": "history",
            "RandAugment": "augmentation",
            "RobustAccuracy": "selection",
            "Runtime": "runtime",
            "SGD": "optimizers",
            "Schedule": "schedules",
            "Selection": "selection",
            "Snapshot": "result",
            "Step": "schedules",
            "TrainResult": "result",
            "Trainer": "trainer",
            "TrivialAugment": "augmentation",
        },
    )

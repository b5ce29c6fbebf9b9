"""Learners that take published data for what it seems to be."""

from dataclasses import dataclass

from robustkit.training import Augmentation, CutMix, MixUp
from robustkit.unlearnable.learners.base import Learner, Lesson, crop_and_flip


@dataclass(frozen=True, kw_only=True)
class ERM(Learner):
    """Lowers the cross-entropy of the images as they are: empirical risk minimisation."""


@dataclass(frozen=True, kw_only=True)
class CropFlip(Learner):
    """Crops with padding and mirrored images, as most training on small images has them."""

    def augmentation(self, lesson: Lesson) -> tuple[Augmentation, ...]:
        """Crop, then flip."""
        return crop_and_flip(lesson.data)


@dataclass(frozen=True, kw_only=True)
class MixUpLearner(Learner):
    """Blends of two images and of their labels.

    Attributes:
        alpha: Of the Beta distribution of the shares.

    Reference:
        Zhang, Cisse, Dauphin, Lopez-Paz: mixup: beyond empirical risk minimization. ICLR 2018. On
        CUDA data: Sadasivan, Soltanolkotabi, Feizi: CUDA: convolution-based unlearnable datasets.
        CVPR 2023.
    """

    alpha: float = 1.0

    def augmentation(self, lesson: Lesson) -> tuple[Augmentation, ...]:
        """Crop, flip, blend."""
        return (*crop_and_flip(lesson.data), MixUp(alpha=self.alpha))


@dataclass(frozen=True, kw_only=True)
class CutMixLearner(Learner):
    """A rectangle of another image in each, and its share of the label.

    Attributes:
        alpha: Of the Beta distribution of the rectangle's share.

    Reference:
        Yun, Han, Oh, Chun, Choe, Yoo: CutMix: regularization strategy to train strong classifiers
        with localizable features. ICCV 2019. On CUDA data: Sadasivan, Soltanolkotabi, Feizi: CUDA:
        convolution-based unlearnable datasets. CVPR 2023.
    """

    alpha: float = 1.0

    def augmentation(self, lesson: Lesson) -> tuple[Augmentation, ...]:
        """Crop, flip, paste."""
        return (*crop_and_flip(lesson.data), CutMix(alpha=self.alpha))

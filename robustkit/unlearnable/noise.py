"""Uniform noise: the control of everything that changes images by as much."""

from dataclasses import dataclass

from torch import Tensor

from robustkit.attacks.steps import reach
from robustkit.data import LabelledImages
from robustkit.randomness import Streams
from robustkit.threat_models import PerturbationSet
from robustkit.unlearnable.additive import Additive, Pattern


@dataclass(frozen=True, kw_only=True, slots=True)
class UniformNoise(Additive):
    """Independent uniform noise: nothing about it tells the class.

    In linf uniform on [-radius, radius]. In l2 uniform noise scaled to the radius: of the length
    of whatever it is compared with. What a method does beyond this, it does by the structure of its
    change.

    Reference:
        Huang, Ma, Erfani, Bailey, Wang: Unlearnable examples: making personal data unexploitable.
        ICLR 2021 (the random noise of its figures).
    """

    def pattern(self, data: LabelledImages, streams: Streams) -> Pattern:
        """The same law for every class."""
        return lambda _, own: own.fork("noise").uniform(data.shape, -1.0, 1.0)

    def lengthen(self, pattern: Tensor, allowed: PerturbationSet) -> Tensor:
        """In linf the radius bounds the law, not each draw."""
        if allowed.norm == "linf":
            return pattern * reach(allowed, pattern)
        return super(UniformNoise, self).lengthen(pattern, allowed)

"""The same secret filter for every class: the control of CUDA."""

from dataclasses import dataclass

from torch import Tensor

from robustkit.data import LabelledImages
from robustkit.randomness import Streams
from robustkit.threat_models import ThreatModel
from robustkit.unlearnable.convolution import ConvolutionUnlearnable


@dataclass(frozen=True, kw_only=True, slots=True)
class UniversalBlur(ConvolutionUnlearnable):
    """CUDA's change of the images without what ties it to their classes.

    All images go through the filter of class 0. What CUDA costs a learner beyond this, it costs by
    the filter's telling the class, and not by the blur.

    Reference:
        Sadasivan, Soltanolkotabi, Feizi: CUDA: Convolution-based unlearnable datasets. CVPR 2023
        (its universal blur).

    Differs from the reference:
        As `ConvolutionUnlearnable`.
    """

    def draw(
        self, data: LabelledImages, threat: ThreatModel, streams: Streams
    ) -> tuple[Tensor, Tensor]:
        """One filter, (classes, kernel, kernel), and which examples go through it."""
        filters, changed = ConvolutionUnlearnable.draw(self, data, threat, streams)
        return filters[:1].expand_as(filters), changed

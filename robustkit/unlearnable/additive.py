"""What attacks share that add a pattern of their own to each image and train nothing."""

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from robustkit.attacks.base import Learner, Poisoned, PoisoningAttack
from robustkit.attacks.steps import reach
from robustkit.data import LabelledImages
from robustkit.randomness import Streams
from robustkit.threat_models import PerturbationSet, ThreatModel
from robustkit.threat_models.projection import lengths
from robustkit.unlearnable.publishing import publish
from robustkit.unlearnable.share import stratified

Pattern = Callable[[Tensor, Streams], Tensor]


class Additive(PoisoningAttack):
    """Adds a pattern as long as the radius, whatever the image shows, and clips to the range.

    The radius is the length of what is added; where an image is black or white, clipping makes the
    change shorter.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2"})
    trains: ClassVar[bool] = False

    @abstractmethod
    def pattern(self, data: LabelledImages, streams: Streams) -> Pattern:
        """What draws patterns: of labels (n,) and streams, (n, C, H, W) of any length.

        Args:
            data: The images; their classes and shape count.
            streams: Its seed counts, for what all images of a class share.
        """

    def lengthen(self, pattern: Tensor, allowed: PerturbationSet) -> Tensor:
        """Each pattern at the radius, in the set's norm."""
        if allowed.norm == "linf":
            length = pattern.abs().flatten(1).amax(1).double()
        else:
            length = lengths(pattern)
        factor = reach(allowed, pattern) / length.clamp_min(1e-30)
        return pattern * factor.to(pattern.dtype).reshape(-1, 1, 1, 1)

    def run(
        self, data: LabelledImages, threat: ThreatModel, *, trainer: Learner, streams: Streams
    ) -> Poisoned:
        """Change training data; see `PoisoningAttack.run`."""
        self.check(threat)
        allowed = threat.allowed
        draw = self.pattern(data, streams)
        mask = stratified(data.labels, threat.budget.poison_rate or 0.0, streams)

        def change(_: Tensor, clean: Tensor, labels: Tensor, own: Streams) -> Tensor:
            return clean + self.lengthen(draw(labels, own), allowed)

        name = type(self).__name__
        return publish(data, mask, allowed, change, name=name, streams=streams)


def of_classes(data: LabelledImages, streams: Streams, purpose: str) -> Streams:
    """One stream per class, for what all its images share."""
    classes = torch.arange(data.classes, device=streams.ids.device)
    return Streams.of(seed=streams.key, ids=classes, purpose=purpose)

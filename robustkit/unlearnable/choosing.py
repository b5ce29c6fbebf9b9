"""The verdict of an audit: the best learner, scored on images that took no part in the choice.

Whoever tries many learners and reports the best one on the images by which it was found to be the
best reports luck too: of twenty equal learners the luckiest looks several points better than it is.
The clean test images are therefore halved, evenly over the classes. Learner and epoch are chosen on
one half, and what is reported is measured on the other. Whoever has no clean images to choose by
can at best do as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustkit.data import LabelledImages
from robustkit.statistics import Interval, wilson
from robustkit.unlearnable.outcomes import Bits

Parts = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Choice:
    """The best learner.

    Attributes:
        name: What it is called.
        chosen: Its accuracy on the images by which it was chosen; too good on average.
        scored: Its accuracy on the others.
    """

    name: str
    chosen: float
    scored: Interval


def halves(test: LabelledImages, seed: int) -> Bits:
    """(N,) bool: the images by which learners and epochs are chosen, half of each class."""
    chosen = test.stratified(max(1, len(test) // 2), seed=seed)
    bits: Bits = np.isin(test.ids.numpy(), chosen.ids.numpy())
    return bits


def choose(right: Mapping[str, Sequence[Bits]], choosing: Bits) -> Choice:
    """Choose a learner on some images and score it on all others.

    Args:
        right: For each learner and each of its trainings, (N,) bool: which images it has right.
        choosing: (N,) bool: those by which it is chosen.
    """
    shares = {name: mean(trainings) for name, trainings in right.items()}
    # Of equal ones the first.
    name = max(shares, key=lambda learner: float(shares[learner][choosing].mean()))
    return Choice(name, float(shares[name][choosing].mean()), accuracy(shares[name][~choosing]))


def mean(trainings: Sequence[Bits]) -> Parts:
    """(N,): in which share of several trainings each image is right."""
    shares: Parts = np.stack(trainings).mean(axis=0, dtype=np.float64)
    return shares


def accuracy(shares: Parts) -> Interval:
    """The mean with Wilson's interval over the images.

    An image counts once, with the share of trainings in which it is right: the variance of shares
    is at most that of successes with the same mean.
    """
    return wilson(min(float(shares.sum()), len(shares)), len(shares))

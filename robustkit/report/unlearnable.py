"""The report of an audit of unlearnable data: what can be learnt from it after all."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from robustkit.errors import BadInput
from robustkit.report.base import Report
from robustkit.report.codec import Amount, Count, Part, Share, Within
from robustkit.report.evasion import Skipped
from robustkit.report.parts import DataFacts
from robustkit.statistics import Interval

if TYPE_CHECKING:
    from torch import Tensor

Difference = Annotated[Interval, Within(-1, 1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Publication:
    """What was published.

    Attributes:
        data: The published training images.
        originals: The words that name what they were made from.
        method: How they were made, by its registered name; None where nobody says.
        options: Of the method, without any key.
        changed: Share of the images that are not as they were.
    """

    data: DataFacts
    originals: str
    method: str | None
    options: Mapping[str, object]
    changed: Part


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """How a measure is spread over images; quantiles are interpolated.

    Attributes:
        mean: Their mean.
        q05: 5 % lie below.
        median: Half lie below.
        q95: 95 % lie below.
    """

    mean: float
    q05: float
    median: float
    q95: float

    @classmethod
    def of(cls, values: "Tensor") -> "Spread":
        """Args: (N,) values, at least one."""
        array = values.double().numpy()
        low, middle, high = np.quantile(array, (0.05, 0.5, 0.95)).tolist()
        return cls(mean=float(array.mean()), q05=low, median=middle, q95=high)


@dataclass(frozen=True, kw_only=True, slots=True)
class Distortion:
    """How much changed images differ from their originals, on images in [0, 1].

    None of these is a statement about what people see.

    Attributes:
        n: Images that differ at all; the spreads are theirs.
        identical: Images that were to be changed and came out as they were, such as black ones.
        psnr: Peak signal-to-noise ratio, in decibels; None where no image differs.
        ssim: Structural similarity, at most 1; None where no image differs.
        linf: Largest difference of a value; None where no image differs.
    """

    n: Count
    identical: Count
    psnr: Spread | None
    ssim: Spread | None
    linf: Spread | None


@dataclass(frozen=True, kw_only=True, slots=True)
class BestLearner:
    """The learner that the verdict is about.

    Attributes:
        learner: Its name.
        chosen: Its accuracy on the images by which learner and epoch were chosen: too good on
            average, and no verdict.
        n: How many these are; none of them counts in the verdict.
        reference: The same learner's accuracy on clean data, on the images of the verdict.
        lost: By how much less it learns from the published data, paired over the images.
    """

    learner: str
    chosen: Part
    n: Count
    reference: Share
    lost: Difference


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerRow:
    """What one learner makes of the published data. Accuracies are on clean test images.

    Attributes:
        name: As on the command line.
        options: Its hyper-parameters.
        last: After the last epoch, on all test images: what it reaches without clean data.
        best: After the best epoch, chosen on one half of the test images and measured on the other:
            an upper bound for a learner that has no clean data to stop by.
        best_epochs: Which epoch that was, one for each seed.
        reference: The same learner on the clean data, after the last epoch.
        difference: `last` less `reference`, paired over the images.
        recovered: `last` as a share of `reference`, both above chance, Fieller's interval; None
            where the learner does not learn even from clean data.
        same_key: On test images published under the same key; None where that is not known.
        permuted_key: On test images each published as if it were of another class; likewise.
        seeds: `last`, one for each seed.
        forward: Examples passed forward on the published data, tests included; all seeds.
        backward: Examples whose gradient was taken; likewise.
        seconds: Time on the clock; likewise.
        cpu_seconds: Time of the process; likewise.
    """

    name: str
    options: Mapping[str, object]
    last: Share
    best: Share
    best_epochs: tuple[Count, ...]
    reference: Share
    difference: Difference
    recovered: Interval | None
    same_key: Share | None
    permuted_key: Share | None
    seeds: tuple[Part, ...]
    forward: Count
    backward: Count
    seconds: Amount
    cpu_seconds: Amount


@dataclass(frozen=True, kw_only=True, slots=True)
class PartialRow:
    """What plain training makes of a set of which a part only is published data.

    Attributes:
        published: Share of the images that are; the others are clean.
        mixed: Accuracy of who trains on all of them.
        alone: Accuracy of who trains on the clean ones alone, in as many steps; None where there
            are none.
        difference: `mixed` less `alone`, paired over the images; None likewise. Above zero the
            published images have helped whoever trains.
    """

    published: Part
    mixed: Share
    alone: Share | None
    difference: Difference | None


@dataclass(frozen=True, kw_only=True)
class UnlearnableReport(Report):
    """What can be learnt from data that was published so that nobody could.

    Attributes:
        data: The clean test images. The verdict is about those that took no part in the choice.
        publication: What was published.
        distortion: What it cost the images.
        best: The learner that the verdict is about.
        learners: What each learner made of it, in the order in which they were named.
        skipped: Learners that could not be tried, and why.
        partial: What is left of the protection where a part only is published; plain training.
        epochs: Of each training.
        seeds: How often each was repeated.

    The other attributes are those of `Report`; `model` is the untrained network.

    Raises:
        BadInput: The numbers do not agree.
    """

    scenario: Literal["unlearnable"] = "unlearnable"
    publication: Publication
    distortion: Distortion
    best: BestLearner
    learners: tuple[LearnerRow, ...]
    skipped: tuple[Skipped, ...]
    partial: tuple[PartialRow, ...]
    epochs: Count
    seeds: Count

    def __post_init__(self) -> None:
        """Refuse a report whose parts are about different things."""
        if self.best.n + self.verdict.n != self.data.n:
            raise BadInput(
                f"learners were chosen on {self.best.n} images and scored on {self.verdict.n}; "
                f"together that must be the {self.data.n} of the data"
            )
        names = [row.name for row in self.learners]
        if len(set(names)) < len(names) or not {"erm", self.best.learner} <= set(names):
            raise BadInput(
                f"the learners are {', '.join(names)}; each must have a name of its own, and erm "
                f"and the best one, {self.best.learner!r}, must be among them"
            )
        for row in self.learners:
            if not len(row.seeds) == len(row.best_epochs) == self.seeds:
                raise BadInput(f"{row.name!r} has figures of another number of seeds")

"""The report of common corruptions: how a model fares where nobody attacks, but images suffer."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from robustkit.errors import BadInput
from robustkit.report.base import Report
from robustkit.report.codec import Amount, Count, Part, Share, Within
from robustkit.report.parts import ModelFacts

SEVERITIES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class CorruptionRow:
    """One row of the grid: one corruption at five severities.

    Attributes:
        name: The corruption.
        family: What it belongs to.
        severities: Accuracy at each severity, 1 to 5, over the images.
        mean: Their mean.
        corruption_error: The errors at all five, as a share of the reference model's; None without
            a reference, or where it makes no error.
    """

    name: str
    family: Literal["noise", "blur", "weather", "digital"]
    severities: tuple[Share, ...]
    mean: Part
    corruption_error: Amount | None

    def __post_init__(self) -> None:
        """Refuse a row that is not about five severities, or has another mean."""
        if len(self.severities) != SEVERITIES:
            raise BadInput(f"accuracies are given for {len(self.severities)} severities, not 5")
        mean = sum(cell.value for cell in self.severities) / SEVERITIES
        if not math.isclose(mean, self.mean, abs_tol=1e-9):
            raise BadInput(f"mean is {self.mean}, and the severities have the mean {mean}")


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanCorruptionError:
    """The mean of all corruption errors (mCE): 1 is as many errors as the reference makes.

    Attributes:
        value: The mean over the corruptions; None where the reference makes no error under one.
        reference: The model that it is a share of, on the same corrupted images.
        reference_accuracy: That model's mean accuracy under corruption.
    """

    value: Amount | None
    reference: ModelFacts
    reference_accuracy: Part


@dataclass(frozen=True, kw_only=True, slots=True)
class CorruptedExample:
    """The outcome of one example.

    Attributes:
        id: Its stable id in the data.
        label: The right class.
        clean_label: What the model answers to the clean image; -1 where it refuses, -2 where its
            answer is no number.
        correct: Under how many corruptions and severities the answer is right.
    """

    id: Count
    label: Count
    clean_label: Annotated[int, Within(-2)]
    correct: Count


@dataclass(frozen=True, kw_only=True)
class CorruptionsReport(Report):
    """How a model fares under common corruptions.

    Attributes:
        clean_accuracy: Share of images that are right without any corruption.
        mean_accuracy: The mean of all cells of the grid; its interval is over the images.
        parameters: Whose published strengths were used: `cifar-c` (32 pixels) or `imagenet-c`
            (224 pixels).
        grid: One row per corruption.
        mce: The errors as a share of a reference model's; None if none was named.
        examples: The outcome of each example, in the order of the data.

    The other attributes are those of `Report`.

    Raises:
        BadInput: The counts of examples do not agree.
    """

    scenario: Literal["corruptions"] = "corruptions"
    clean_accuracy: Share
    mean_accuracy: Share
    parameters: Literal["cifar-c", "imagenet-c"]
    grid: tuple[CorruptionRow, ...]
    mce: MeanCorruptionError | None = None
    examples: tuple[CorruptedExample, ...]

    def __post_init__(self) -> None:
        """Refuse a report whose numbers are about different examples."""
        n = self.data.n
        if not n == self.verdict.n == len(self.examples):
            raise BadInput(
                f"the data has {n} examples, the verdict is about {self.verdict.n}, and outcomes "
                f"are given for {len(self.examples)}"
            )
        if len({example.id for example in self.examples}) < n:
            raise BadInput("two examples have the same id")
        if any(example.correct > SEVERITIES * len(self.grid) for example in self.examples):
            raise BadInput("an example is right more often than it was asked about")

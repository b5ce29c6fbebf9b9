"""The report of an evasion: how a model fares against changed inputs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from robustkit.errors import BadInput
from robustkit.report.base import Report
from robustkit.report.codec import OMITTED_IF_NONE, Amount, Count, Part, Share, Within

Status = Literal["robust", "broken", "misclassified", "violation", "not_started"]

_WAYS = ("direct", "bpda", "eot", "warm")


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracies:
    """Robust accuracy by what was attacked.

    Attributes:
        direct: Against attacks on the model itself.
        surrogate: Against attacks on its differentiable stand-ins; None if it names none.
        worst: Against all of them together.
    """

    direct: Share
    surrogate: Share | None
    worst: Share


@dataclass(frozen=True, kw_only=True, slots=True)
class AttackRow:
    """What one attack did to the examples still standing when its turn came.

    Attributes:
        name: The attack.
        options: Its hyper-parameters.
        through: What it attacked: `direct`, `surrogate:NAME`, `bpda`, `eot` or `warm`.
        examples_in: How many examples it tried.
        broken: How many of them it broke.
        violations: How many it handed back outside the set or over the budget.
        forward: Examples passed forward.
        backward: Examples whose gradient was taken.
        queries: Answers it saw.
        seconds: Time on the clock.
        lead_left: It tried only examples of whose lead at most this share was left; None for all.
    """

    name: str
    options: Mapping[str, object]
    through: str
    lead_left: Amount | None = field(default=None, metadata=OMITTED_IF_NONE)
    examples_in: Count
    broken: Count
    violations: Count
    forward: Count
    backward: Count
    queries: Count
    seconds: Amount

    def __post_init__(self) -> None:
        """Refuse counts that do not agree and an unknown way to the model."""
        if self.broken + self.violations > self.examples_in:
            raise BadInput(
                f"broken and violations are {self.broken} and {self.violations} of "
                f"{self.examples_in} examples"
            )
        if self.through not in _WAYS and not self.through.startswith("surrogate:"):
            raise BadInput(
                f"through is {self.through[:40]!r}; allowed: {', '.join(_WAYS)}, surrogate:NAME"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Skipped:
    """An attack that was not run.

    Attributes:
        name: The attack.
        reason: Why not.
    """

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Draws:
    """Robust accuracy of a model that answers at random, on fresh draws.

    Attributes:
        count: How many answers were drawn for each example.
        mean: Accuracy of one answer, averaged over the draws; the headline.
        majority: Share of examples that most draws answer rightly.
        all: Share of examples that every draw answers rightly.
    """

    count: Count
    mean: Share
    majority: Share
    all: Share


@dataclass(frozen=True, kw_only=True, slots=True)
class PassesPoint:
    """Robust accuracy after so much work.

    Attributes:
        passes: Passes spent per example.
        robust: Share of examples still standing.
    """

    passes: Amount
    robust: Part


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """What the second half of the passes has found.

    Attributes:
        passes: How many passes that is.
        broken: Examples that fell in it.
        more_at_most: How many would fall, at that rate, in as many passes again: the upper limit
            of the average (95 %), and no more than there are.
    """

    passes: Count
    broken: Count
    more_at_most: Amount


@dataclass(frozen=True, kw_only=True, slots=True)
class EpsPoint:
    """Robust accuracy at one radius.

    Attributes:
        eps: The radius.
        robust: Share of examples that stand.
    """

    eps: Amount
    robust: Part


@dataclass(frozen=True, kw_only=True, slots=True)
class QueriesPoint:
    """The smallest changes found within so many queries.

    Attributes:
        queries: Queries spent per example.
        median: Median distance; None for infinite.
        q25: Lower quartile of the distances; None for infinite.
        q75: Upper quartile; None for infinite.
        success: Share of examples broken within the radius.
        times_nearest: Median over the examples of the distance in units of the smallest one known;
            None for infinite, or where no attack with gradients has looked.
    """

    queries: Count
    median: Amount | None
    q25: Amount | None
    q75: Amount | None
    success: Part
    times_nearest: Amount | None = field(default=None, metadata=OMITTED_IF_NONE)


@dataclass(frozen=True, kw_only=True, slots=True)
class NearestKnown:
    """The smallest changes known, found with gradients or without: what more queries may lead to.

    Attributes:
        median: Median over the examples; None for infinite.
        q25: Lower quartile; likewise.
        q75: Upper quartile; likewise.
    """

    median: Amount | None
    q25: Amount | None
    q75: Amount | None


@dataclass(frozen=True, kw_only=True, slots=True)
class DistancePoint:
    """How many examples can be broken so near within so many queries.

    Attributes:
        queries: Queries spent per example.
        distance: How far an example may be changed.
        success: Share of examples broken within that distance.
    """

    queries: Count
    distance: Amount
    success: Part


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """How the verdict depends on effort; None for what was not drawn.

    Attributes:
        passes: Over passes per example.
        effort: What more of them might find.
        eps: Over the radius.
        queries: Over queries per example.
        distances: Success over distance, for each number of queries; distances grow within each.
        nearest: The smallest changes known for the examples of `queries`.
    """

    passes: tuple[PassesPoint, ...] | None = field(default=None, metadata=OMITTED_IF_NONE)
    effort: Effort | None = field(default=None, metadata=OMITTED_IF_NONE)
    eps: tuple[EpsPoint, ...] | None = field(default=None, metadata=OMITTED_IF_NONE)
    queries: tuple[QueriesPoint, ...] | None = field(default=None, metadata=OMITTED_IF_NONE)
    distances: tuple[DistancePoint, ...] | None = field(default=None, metadata=OMITTED_IF_NONE)
    nearest: NearestKnown | None = field(default=None, metadata=OMITTED_IF_NONE)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExampleRow:
    """The outcome of one example.

    Attributes:
        id: Its stable id in the data.
        label: The right class.
        clean_label: What the model answers to the clean input; -1 where it refuses, -2 where its
            answer is no number.
        status: `robust`, `broken`, `misclassified` (before any attack), `violation` (an attack
            handed back something not allowed, and none broke it) or `not_started`.
        attack: Which attack decided it; None where none did.
        distance: How far the decisive input lies from the clean one; None where infinite or not
            applicable.
        queries: Answers seen until then; None where not applicable.
    """

    id: Count
    label: Count
    clean_label: Annotated[int, Within(-2)]
    status: Status
    attack: str | None
    distance: Amount | None
    queries: Count | None

    def __post_init__(self) -> None:
        """Refuse a break that nobody made."""
        if self.status == "broken" and self.attack is None:
            raise BadInput("the example is broken, and no attack is named")


@dataclass(frozen=True, kw_only=True)
class EvasionReport(Report):
    """How a model fares against changed inputs.

    Attributes:
        clean_accuracy: Share of all examples that are right before any attack.
        robust_accuracy: Share that no attack broke: the worst of `accuracies`.
        accuracies: By what was attacked.
        violations: Examples that some attack handed back outside the set or over the budget.
        attacks: What ran, in order.
        skipped: What did not, and why.
        draws: For models that answer at random; else None.
        curves: How the verdict depends on effort.
        examples: The outcome of each example, in the order of the data.

    The other attributes are those of `Report`.

    Raises:
        BadInput: The counts of examples do not agree.
    """

    scenario: Literal["evasion"] = "evasion"
    clean_accuracy: Share
    robust_accuracy: Share
    accuracies: Accuracies
    violations: Count
    attacks: tuple[AttackRow, ...]
    skipped: tuple[Skipped, ...]
    draws: Draws | None = None
    curves: Curves = field(default_factory=Curves)
    examples: tuple[ExampleRow, ...]

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

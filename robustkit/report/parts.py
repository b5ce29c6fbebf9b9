"""What every report holds, whatever the scenario."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from robustkit.errors import BadInput, CorruptFile, MissingFile
from robustkit.report.codec import Amount, Count, Part, decode

if TYPE_CHECKING:
    from robustkit.data import LabelledImages
    from robustkit.statistics import Interval
    from robustkit.threat_models import PerturbationSet, ThreatModel

Stage = Literal["inference", "training", "release"]
Access = Literal["decision", "score", "gradient"]
Severity = Literal["info", "warn", "void", "unlisted"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PerturbationFacts:
    """What the adversary may change.

    Attributes:
        norm: A norm (`linf`, `l2`, `l1`, `l0`) or another kind of change (`patch`).
        radius: How far, in the unit of the norm; None for any distance.
        low: Smallest allowed value of an input.
        high: Largest allowed value.
        options: What else describes the set, such as a patch's height and width.
    """

    norm: str
    radius: Amount | None
    low: float
    high: float
    options: Mapping[str, object]

    @classmethod
    def of(cls, allowed: "PerturbationSet") -> "PerturbationFacts":
        """The facts about a perturbation set, every field of the dataclass among them."""
        common = {"norm", "radius", "low", "high"}
        names = [field.name for field in fields(allowed)]  # type: ignore[arg-type]
        return cls(
            norm=allowed.norm,
            radius=allowed.radius,
            low=allowed.low,
            high=allowed.high,
            options={name: getattr(allowed, name) for name in names if name not in common},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ThreatFacts:
    """The adversary that was assumed.

    Attributes:
        name: What the threat model is called.
        stage: `inference`, `training` or `release`.
        goal: As on the command line: `untargeted`, `targeted:least-likely`, `backdoor:3`.
        access: `decision`, `score` or `gradient`.
        perturbation: What it may change; None where it changes no input.
        queries: Answers it may see per example; None for any number.
        poison_rate: Share of the training data it may change; None where it changes none.
        may_relabel: Whether changed training examples may get other labels.
    """

    name: str
    stage: Stage
    goal: str
    access: Access
    perturbation: PerturbationFacts | None
    queries: Count | None
    poison_rate: Part | None
    may_relabel: bool

    @classmethod
    def of(cls, threat: "ThreatModel") -> "ThreatFacts":
        """The facts about a threat model."""
        goal = threat.goal
        detail = getattr(goal, "selection", getattr(goal, "target", None))
        allowed = threat.perturbation
        return cls(
            name=threat.name,
            stage=threat.stage.value,
            goal=goal.name if detail is None else f"{goal.name}:{detail}",
            access=cast("Access", str(threat.access)),
            perturbation=None if allowed is None else PerturbationFacts.of(allowed),
            queries=threat.budget.queries,
            poison_rate=threat.budget.poison_rate,
            may_relabel=threat.budget.may_relabel,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """The model that was judged.

    Attributes:
        spec: The words that name it.
        sha256: Hash of its weights; None where they cannot be seen.
        parameters: How many numbers it learned; None where they cannot be seen.
        classes: How many classes it tells apart.
    """

    spec: str
    sha256: str | None
    parameters: Count | None
    classes: Count


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFacts:
    """The examples it was judged on.

    Attributes:
        spec: The words that name the set.
        split: Which part of it.
        n: How many examples were used.
        classes: How many classes the set has.
        sha256: Hash of the examples used.
    """

    spec: str
    split: str
    n: Count
    classes: Count
    sha256: str

    @classmethod
    def of(cls, data: "LabelledImages") -> "DataFacts":
        """The facts about a set."""
        return cls(
            spec=data.spec,
            split=data.split,
            n=len(data),
            classes=data.classes,
            sha256=data.sha256,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What its authors say of the model; None for what is not known.

    Attributes:
        name: What to call it.
        paper: Title, and where it appeared.
        architecture: The network.
        training_data: What it learned from.
        extra_data: Whether it learned from more than the usual training set.
    """

    name: str | None = None
    paper: str | None = None
    architecture: str | None = None
    training_data: str | None = None
    extra_data: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """Where the run took place.

    Attributes:
        python: Version of Python.
        platform: Operating system and processor.
        packages: Versions of the packages that can change a result.
        device: `cpu`, `cuda:0`.
        device_name: What the device calls itself.
        dtype: Type in which attacks searched; judging is always in float32.
        width: Rows in which the model was run, or a part of them where few examples were awaited;
            None where every batch ran as it came.
        threads: Threads on the CPU.
        reproducible: Whether the same command gives the same examples again.
    """

    python: str
    platform: str
    packages: Mapping[str, str]
    device: str
    device_name: str
    dtype: str
    width: Count | None
    threads: Count
    reproducible: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Headline:
    """The one number of a report.

    Attributes:
        metric: What was measured, such as `robust_accuracy`.
        value: The number.
        low: Lower end of its 95 % interval.
        high: Upper end.
        n: How many examples it is about.
        worse: Whether a `higher` or a `lower` value is the worse one.
    """

    metric: str
    value: float
    low: float
    high: float
    n: Count
    worse: Literal["higher", "lower"]

    @classmethod
    def accuracy(cls, metric: str, interval: "Interval", n: int) -> "Headline":
        """A share of `n` examples, of which a lower one is worse."""
        return cls(
            metric=metric,
            value=interval.value,
            low=interval.low,
            high=interval.high,
            n=n,
            worse="lower",
        )

    def __post_init__(self) -> None:
        """Refuse an interval without its value."""
        if not self.low <= self.value <= self.high:
            raise BadInput(f"{self.value} lies outside its interval [{self.low}, {self.high}]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Control:
    """The same method where the answer is known.

    Attributes:
        name: What was compared.
        metric: What was measured.
        value: The number; None if it could not be measured.
        low: Lower end of its interval, if it has one.
        high: Upper end.
        message: What the number says about the headline.
    """

    name: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """A sign that the headline may mislead.

    Attributes:
        id: A short name that does not change.
        severity: `info`: good to know. `warn`: look into it. `void`: the number is not valid.
            `unlisted`: valid, but no leaderboard shows it.
        message: What was seen, and what it means.
    """

    id: str
    severity: Severity
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What the whole run took: clean pass, search and judging.

    Attributes:
        forward: Examples passed forward.
        backward: Examples whose gradient was taken.
        rows_run: Rows the hardware worked on, padding included.
        seconds: Time on the clock.
    """

    forward: Count
    backward: Count
    rows_run: Count
    seconds: Amount


def read_about(path: Path) -> About:
    """What a TOML file says about a model; keys that it leaves out are not known.

    Raises:
        MissingFile: There is no such file.
        CorruptFile: It is no TOML, or has an unknown key or a value of the wrong type.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingFile(f"There is no file {str(path)!r}. Check the path.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CorruptFile(f"{str(path)!r} cannot be read as TOML: {error}") from error
    unknown = dict.fromkeys(field.name for field in fields(About))
    try:
        return decode(About, {**unknown, **table})
    except CorruptFile as error:
        raise CorruptFile(f"{str(path)!r}: {error}") from error

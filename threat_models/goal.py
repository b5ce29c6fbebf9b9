"""What the adversary wants, and the one rule that says whether it got it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from robustkit.errors import BadInput, ShapeMismatch
from robustkit.randomness import Streams

Selection = Literal["random", "least-likely", "second", "given"]

# In the place of labels, where a model names none: it refuses to answer, which is no success of the
# adversary, or it answers no number, which is one.
REFUSED = -1
NO_NUMBER = -2


@dataclass(frozen=True, slots=True)
class Untargeted:
    """Any wrong answer; the right one is the data's label, not the model's own answer."""

    name: str = "untargeted"


@dataclass(frozen=True, slots=True)
class Targeted:
    """One particular wrong answer per example.

    Attributes:
        selection: Which one: `random` (uniform over wrong classes), `least-likely` or `second`
        (most
            likely wrong class) by the model's answer to the clean image, or `given` by the caller.
    """

    selection: Selection = "random"

    def __post_init__(self) -> None:
        """Refuse a selection that does not exist."""
        if self.selection not in get_args(Selection):
            allowed = ", ".join(get_args(Selection))
            raise BadInput(
                f"Targets cannot be chosen by {self.selection!r}. Use one of: {allowed}."
            )

    @property
    def name(self) -> str:
        """`targeted`, whatever the selection."""
        return "targeted"


@dataclass(frozen=True, slots=True)
class Backdoor:
    """The class `target` on every input that carries the trigger."""

    target: int
    name: str = "backdoor"


@dataclass(frozen=True, slots=True)
class Availability:
    """Low clean accuracy of whoever trains on the data."""

    name: str = "availability"


@dataclass(frozen=True, slots=True)
class Extraction:
    """A copy of the model that its owner cannot recognise."""

    name: str = "extraction"


Goal = Untargeted | Targeted | Backdoor | Availability | Extraction


def parse_goal(text: str) -> Goal:
    """The evasion goal that `untargeted`, `targeted` or `targeted:SELECTION` means.

    Raises:
        BadInput: Anything else.
    """
    kind, _, selection = text.partition(":")
    if kind == "untargeted" and not selection:
        return Untargeted()
    if kind == "targeted" and selection in ("", "random", "least-likely", "second"):
        return Targeted(selection or "random")  # type: ignore[arg-type]
    raise BadInput(
        f"The goal {text!r} is unknown. Use untargeted, targeted, targeted:random, "
        "targeted:least-likely or targeted:second."
    )


@dataclass(frozen=True, slots=True)
class Output:
    """What a model answers for a batch.

    Attributes:
        logits: (N, K).
        rejected: (N,) bool: the model refuses to answer; None if it cannot.
        label_set: (N, K) bool: the labels it does not exclude; None if it names one label.
        guide: (N, K) logits that carry the gradient in the model's place; None where its own do.
    """

    logits: Tensor
    rejected: Tensor | None = None
    label_set: Tensor | None = None
    guide: Tensor | None = None

    @property
    def guidance(self) -> Tensor:
        """(N, K) the logits that an attack follows; whether it succeeds, the others say."""
        return self.logits if self.guide is None else self.guide

    @property
    def labels(self) -> Tensor:
        """(N,) int64: the most likely class; `REFUSED` or `NO_NUMBER` where there is none."""
        labels = self.logits.argmax(1).masked_fill(self.logits.isnan().any(1), NO_NUMBER)
        return labels if self.rejected is None else labels.masked_fill(self.rejected, REFUSED)

    def right(self, labels: Tensor) -> Tensor:
        """(N,) bool: it names the right label, or a set that holds it; a refusal is not right."""
        if self.label_set is None:
            return self.labels == labels
        held = self.label_set.gather(1, labels[:, None])[:, 0]
        return held if self.rejected is None else held & ~self.rejected

    def float(self) -> "Output":
        """The same answers with logits in float32."""
        guide = None if self.guide is None else self.guide.float()
        return Output(self.logits.float(), self.rejected, self.label_set, guide)

    def take(self, rows: Tensor | slice) -> "Output":
        """The answers for some rows."""
        return Output(
            self.logits[rows],
            None if self.rejected is None else self.rejected[rows],
            None if self.label_set is None else self.label_set[rows],
            None if self.guide is None else self.guide[rows],
        )

    def hidden(self, rows: Tensor) -> "Output":
        """The same answers but for some rows, (N,) bool, that get none: NaN, refused, no label."""
        return Output(
            torch.where(rows[:, None], torch.nan, self.logits),
            rows if self.rejected is None else self.rejected | rows,
            None if self.label_set is None else self.label_set & ~rows[:, None],
            None if self.guide is None else torch.where(rows[:, None], torch.nan, self.guide),
        )

    @classmethod
    def cat(cls, parts: Sequence["Output"]) -> "Output":
        """The answers of several batches in a row."""
        first = parts[0]
        return (
            first
            if len(parts) == 1
            else cls(
                torch.cat([part.logits for part in parts]),
                None
                if first.rejected is None
                else torch.cat([p.rejected for p in parts if p.rejected is not None]),
                None
                if first.label_set is None
                else torch.cat([p.label_set for p in parts if p.label_set is not None]),
                None
                if first.guide is None
                else torch.cat([p.guide for p in parts if p.guide is not None]),
            )
        )


@dataclass(frozen=True, slots=True)
class Objective:
    """What the adversary wants of each example of a batch.

    Attributes:
        labels: (N,) int64, the right classes.
        targets: (N,) int64, the wanted wrong classes; None for an untargeted goal.
        starts: (N, S, C, H, W) images of the adversary's own that may reach the objectives, for
            attacks that need somewhere to start; a missing one is NaN. None where it has none.
    """

    labels: Tensor
    targets: Tensor | None = None
    starts: Tensor | None = None

    def __post_init__(self) -> None:
        """Refuse labels that are no vector of integers, and starts of other examples."""
        for tensor in (self.labels, self.targets):
            if tensor is not None and (tensor.ndim != 1 or tensor.dtype != torch.int64):
                raise ShapeMismatch(
                    f"Labels are (N,) int64, not {tuple(tensor.shape)} {tensor.dtype}."
                )
        if self.targets is not None and len(self.targets) != len(self.labels):
            raise ShapeMismatch(
                f"{len(self.targets)} targets were given for {len(self.labels)} labels."
            )
        if self.starts is not None and (
            self.starts.ndim != 5 or len(self.starts) != len(self.labels)
        ):
            raise ShapeMismatch(
                f"Starts are (N, S, C, H, W), not {tuple(self.starts.shape)}, for "
                f"{len(self.labels)} labels."
            )

    def __len__(self) -> int:
        """How many examples."""
        return len(self.labels)

    @property
    def name(self) -> str:
        """`targeted` or `untargeted`."""
        return "untargeted" if self.targets is None else "targeted"

    def reached(self, output: Output) -> Tensor:
        """(N,) bool: whether the adversary has what it wants.

        A win is a wrong (or the target) label that was not rejected; with label sets, a set without
        the right label (or with the target and without the right label). A model that answers no
        number has not given the right label.
        """
        if output.label_set is not None:
            won = ~output.label_set.gather(1, self.labels[:, None])[:, 0]
            if self.targets is not None:
                won = won & output.label_set.gather(1, self.targets[:, None])[:, 0]
        elif self.targets is not None:
            won = output.labels == self.targets
        else:
            won = output.labels != self.labels
        return won if output.rejected is None else won & ~output.rejected

    def take(self, rows: Tensor | slice) -> "Objective":
        """The objective of some rows."""
        return Objective(
            self.labels[rows],
            None if self.targets is None else self.targets[rows],
            None if self.starts is None else self.starts[rows],
        )


def objective(goal: Goal, labels: Tensor, clean_logits: Tensor, streams: Streams) -> Objective:
    """The objective that an evasion goal means for a batch.

    Args:
        goal: Untargeted, or targeted by `random`, `least-likely` or `second`.
        labels: (N,) int64, the right classes.
        clean_logits: (N, K), the model's answers to the clean images.
        streams: N streams, used for random targets.

    Raises:
        BadInput: A goal that is not about single images, given targets, or fewer than two classes.
    """
    if isinstance(goal, Untargeted):
        return Objective(labels)
    if not isinstance(goal, Targeted) or goal.selection == "given":
        raise BadInput(
            f"{goal} gives no target for an image. Make an Objective(labels, targets) yourself."
        )
    classes = clean_logits.shape[1]
    if classes < 2:
        raise BadInput("A targeted goal needs at least two classes; the model has one.")
    if goal.selection == "random":
        other = streams.fork("target").integers(classes - 1)
        return Objective(labels, other + (other >= labels).to(torch.int64))
    worst = goal.selection == "least-likely"
    masked = clean_logits.scatter(1, labels[:, None], torch.inf if worst else -torch.inf)
    return Objective(labels, masked.argmin(1) if worst else masked.argmax(1))

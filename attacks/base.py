"""The contract of attacks on inputs, and the one loop that drives step-by-step attacks."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from robustkit.errors import DoesNotFit, ShapeMismatch
from robustkit.randomness import Streams
from robustkit.threat_models import (
    Access,
    Decisions,
    Gradients,
    Objective,
    PerturbationSet,
    Stage,
    ThreatModel,
)

ViewT = TypeVar("ViewT", bound=Decisions)
T = TypeVar("T")


class EvasionAttack(ABC, Generic[ViewT]):
    """An attack that changes inputs at inference time.

    Subclasses are frozen keyword-only dataclasses of hyper-parameters: no model, no radius, no
    state.

    Attributes:
        access: What the attack must see; it is handed a view of exactly this.
        norms: Perturbation sets it can work in, by `PerturbationSet.norm`.
        goals: Goals it can pursue, by `Goal.name`.
        minimises: It looks for the smallest change, so that a point outside the radius is a
            measured distance and not a violation.
        order_free: An example's result depends on nothing but the example; False for foreign code.
    """

    access: ClassVar[Access]
    norms: ClassVar[frozenset[str]]
    goals: ClassVar[frozenset[str]] = frozenset({"untargeted", "targeted"})
    minimises: ClassVar[bool] = False
    order_free: ClassVar[bool] = True

    def why_not(self, threat: ThreatModel) -> str | None:
        """The reason why this attack does not fit the threat model; None if it does."""
        if threat.stage is not Stage.INFERENCE:
            return f"it acts at inference, the threat at {threat.stage.value}"
        if self.access > threat.access:
            return f"it needs {self.access} access, the threat grants {threat.access}"
        if threat.perturbation is None or threat.perturbation.norm not in self.norms:
            given = (
                "no change of inputs" if threat.perturbation is None else threat.perturbation.norm
            )
            return f"it works in {', '.join(sorted(self.norms))}, the threat allows {given}"
        if threat.goal.name not in self.goals:
            wanted = ", ".join(sorted(self.goals))
            return f"it pursues {wanted} goals, the threat's is {threat.goal.name}"
        return None

    def check(self, threat: ThreatModel) -> None:
        """Raise DoesNotFit, with the reason, if this attack does not fit the threat model."""
        reason = self.why_not(threat)
        if reason is not None:
            raise DoesNotFit(
                f"{type(self).__name__} does not fit the threat model {threat.name!r}: {reason}."
            )

    @abstractmethod
    def run(
        self,
        view: ViewT,
        inputs: Tensor,
        objective: Objective,
        allowed: PerturbationSet,
        *,
        streams: Streams,
    ) -> Tensor:
        """Change inputs so that the objective is reached.

        Args:
            view: What the attack sees of the model; input i belongs to victim i.
            inputs: (N, C, H, W) float32 clean inputs; not modified.
            objective: What is wanted of each.
            allowed: What may be changed.
            streams: One random stream per input.

        Returns:
            Like `inputs`: for each row a point that reaches the objective if one was found,
            otherwise the attack's last point, inside the allowed set (unless the attack
            `minimises`).
        """


@dataclass(frozen=True, slots=True)
class Rows:
    """A batch of examples under attack; all tensors are row-aligned.

    Attributes:
        clean: (N, C, H, W) the inputs before the attack.
        objective: What is wanted of each.
        streams: One random stream per row, already on the lane of the attempt.
        index: (N,) int64, the row's victim in the view; -1 for padding.
        attempt: (N,) int64, which restart or target this is, from 0.
        allowed: What may be changed.
    """

    clean: Tensor
    objective: Objective
    streams: Streams
    index: Tensor
    attempt: Tensor
    allowed: PerturbationSet

    @classmethod
    def first(
        cls,
        clean: Tensor,
        objective: Objective,
        streams: Streams,
        index: Tensor,
        allowed: PerturbationSet,
    ) -> "Rows":
        """The first attempt at each example."""
        return cls(clean, objective, streams.on_lanes(0), index, torch.zeros_like(index), allowed)

    def next_attempt(self) -> "Rows":
        """The next attempt at each example, with fresh randomness."""
        attempt = self.attempt + 1
        return dataclasses.replace(self, attempt=attempt, streams=self.streams.on_lanes(attempt))


class State(Protocol):
    """What a step-by-step attack keeps between steps: a dataclass of row-aligned tensors."""

    rows: Rows


StateT = TypeVar("StateT", bound=State)


class Stepwise(EvasionAttack[Gradients], Generic[StateT]):
    """An attack that alternates between proposing points and seeing their logits and gradients.

    It says nothing about batches: the loop that drives it mixes rows that are at different steps,
    attempts and examples, and lets a row leave at its first success (see `wins`).
    """

    access: ClassVar[Access] = Access.GRADIENT

    @property
    def attempts(self) -> int:
        """How often an example is attacked from the start before it is given up."""
        return 1

    @abstractmethod
    def begin(self, rows: Rows) -> StateT:
        """The state before the first step."""

    @abstractmethod
    def propose(self, state: StateT) -> Tensor:
        """(N, C, H, W) the points to be tried next, inside the allowed set; changes nothing."""

    @abstractmethod
    def gain(self, state: StateT, logits: Tensor) -> Tensor:
        """(N,) what the attack raises, differentiable with respect to `logits`."""

    @abstractmethod
    def update(self, state: StateT, logits: Tensor, gradient: Tensor) -> Tensor:
        """Take in what was seen at the proposed points.

        Returns:
            (N,) bool: the rows that are finished. What `result` gives then is not tried before
            another attempt starts: `update` must have seen it.
        """

    def wins(self, state: StateT, reached: Tensor) -> Tensor:
        """Which of the proposed points end the search of their example.

        By default every point that reaches the objective. An attack says otherwise that looks for
        the nearest such point, or that proposes points outside the set on its way.

        Args:
            state: The state that proposed the points, before `update`.
            reached: (N,) bool: the points that reach the objective.

        Returns:
            (N,) bool.
        """
        return reached

    def result(self, state: StateT) -> Tensor:
        """(N, C, H, W) what the search gives back where it ends without a win.

        By default the next point. Inside the allowed set, unless the attack `minimises`.
        """
        return self.propose(state)

    def again(self, state: StateT) -> StateT:
        """The state before the first step of the next attempt, made from the end of the last."""
        return self.begin(state.rows.next_attempt())

    def run(
        self,
        view: Gradients,
        inputs: Tensor,
        objective: Objective,
        allowed: PerturbationSet,
        *,
        streams: Streams,
    ) -> Tensor:
        """Change inputs so that the objective is reached; see `EvasionAttack.run`."""
        check_rows(inputs, objective, streams)
        index = torch.arange(len(inputs), device=inputs.device)
        everything = Rows.first(inputs, objective, streams, index, allowed)
        changed = inputs.clone()
        index = index[~_penniless(view, index)]
        taken = 0

        def source(room: int) -> Rows | None:
            nonlocal taken
            start, taken = taken, min(taken + room, len(index))
            return take_rows(everything, index[start:taken]) if start < taken else None

        for found in search(
            self, view, source, width=view.width or max(len(inputs), 1), pad=bool(view.width)
        ):
            changed[found.index] = found.points
        return changed


@dataclass(frozen=True, slots=True)
class Found:
    """Examples that have left the search.

    Attributes:
        index: (N,) int64, their victims.
        points: (N, C, H, W) where their search ended.
    """

    index: Tensor
    points: Tensor


def search(
    attack: Stepwise[StateT],
    view: Gradients,
    source: Callable[[int], Rows | None],
    *,
    width: int,
    pad: bool,
) -> Iterator[Found]:
    """Drive a step-by-step attack over a queue of examples, keeping the batch full.

    Args:
        attack: What to run.
        view: The model as the attack sees it.
        source: Called with a number of free rows; gives at most so many first attempts, None at the
            end.
        width: Rows in the batch.
        pad: Keep the batch at exactly `width` rows when the source runs dry, so that results do not
            depend on which examples share a batch.

    Yields:
        Examples as they leave: at the first success, after the last step of the last attempt, or
        when they cannot pay for another query.

    Raises:
        DoesNotFit: No gradient comes back from the model.
    """
    state = _refilled(attack, [], source, width, pad=pad)
    while state is not None:
        inputs = attack.propose(state).detach().requires_grad_()
        output = view.answer(inputs, state.rows.index)
        gradient = _gradient(attack.gain(state, output.logits), inputs)
        with torch.no_grad():
            reached = attack.wins(state, state.rows.objective.reached(output))
            done = attack.update(state, output.logits.detach(), gradient)
            present = state.rows.index >= 0
            broke = _penniless(view, state.rows.index)
            leaving = (reached | done | broke) & present
            if not bool(leaving.any()):
                continue
            over = reached | broke | (state.rows.attempt + 1 >= attack.attempts)
            again = leaving & ~over
            out = (leaving & ~again).nonzero()[:, 0]
            if len(out):
                points = torch.where(
                    _columns(reached[out], inputs), inputs[out], attack.result(state)[out]
                )
                yield Found(state.rows.index[out], points.detach())
            going_on = [take_rows(state, rows) for rows in _where(present & ~leaving)]
            going_on += [attack.again(take_rows(state, rows)) for rows in _where(again)]
            state = _refilled(attack, going_on, source, width, pad=pad)


def _gradient(gain: Tensor, inputs: Tensor) -> Tensor:
    gradient = None
    if gain.requires_grad:
        (gradient,) = torch.autograd.grad(gain.sum(), inputs, allow_unused=True)
    if gradient is None:
        raise DoesNotFit(
            "The model's answer carries no gradient back to its input. Use an attack that needs "
            "score or decision access only, or a model that can be differentiated."
        )
    # One NaN would spread over the image; a value without a slope is not stepped on.
    return gradient.nan_to_num(nan=0.0)


def _penniless(view: Decisions, index: Tensor) -> Tensor:
    """(N,) bool: the victims that can pay for no further query."""
    left = view.remaining
    if left is None:
        return torch.zeros_like(index, dtype=torch.bool)
    return left[index.clamp_min(0)] < 1


def _refilled(
    attack: Stepwise[StateT],
    parts: list[StateT],
    source: Callable[[int], Rows | None],
    width: int,
    *,
    pad: bool,
) -> StateT | None:
    room = width - sum(len(part.rows.index) for part in parts)
    fresh = source(room) if room else None
    if fresh is not None:
        parts = [*parts, attack.begin(fresh)]
    if not parts:
        return None
    state = join_rows(parts)
    return _padded(state, width) if pad else state


def _padded(state: StateT, width: int) -> StateT:
    count = len(state.rows.index)
    if count == width:
        return state
    numbers = torch.arange(width, device=state.rows.index.device)
    state = take_rows(state, numbers.clamp_max(count - 1))
    state.rows.index[count:] = -1
    return state


def _where(mask: Tensor) -> list[Tensor]:
    """The row numbers of a mask as a list of one vector, or of none if the mask is empty."""
    rows = mask.nonzero()[:, 0]
    return [rows] if len(rows) else []


def _columns(mask: Tensor, like: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (like.ndim - 1))


def take_rows(value: T, rows: Tensor) -> T:
    """Some rows of a dataclass of row-aligned tensors, nested dataclasses included."""
    if isinstance(value, Tensor):
        return value[rows]  # type: ignore[return-value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        taken = {name: take_rows(field, rows) for name, field in fields.items()}
        if any(taken[name] is not fields[name] for name in fields):
            return dataclasses.replace(value, **taken)
    return value


def join_rows(values: Sequence[T]) -> T:
    """Dataclasses of row-aligned tensors one after the other; other fields are the first's."""
    first = values[0]
    if len(values) == 1:
        return first
    if isinstance(first, Tensor):
        return torch.cat(values)  # type: ignore[return-value,arg-type]
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        names = [field.name for field in dataclasses.fields(first)]
        joined = {name: join_rows([getattr(value, name) for value in values]) for name in names}
        if any(joined[name] is not getattr(first, name) for name in names):
            return dataclasses.replace(first, **joined)
    return first


def check_rows(inputs: Tensor, objective: Objective, streams: Streams) -> None:
    """Refuse inputs, objective and streams that do not belong together."""
    if inputs.ndim != 4 or inputs.dtype != torch.float32:
        raise ShapeMismatch(
            f"Inputs are (N, C, H, W) float32, not {tuple(inputs.shape)} {inputs.dtype}."
        )
    if not len(inputs) == len(objective) == len(streams):
        raise ShapeMismatch(
            f"{len(inputs)} inputs came with {len(objective)} labels and {len(streams)} streams."
        )

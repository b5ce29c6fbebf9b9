"""What the adversary sees: views of a model that grant it and nothing more.

An attack never holds the model. A view that grants too little has no such method, counts every
query for the example that pays for it, and refuses a query over the budget before the model is
asked.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from robustkit.errors import BadInput, BudgetExceeded, DoesNotFit, ShapeMismatch
from robustkit.models import labels_only
from robustkit.passes import Ledger, chunks, watched
from robustkit.randomness import Streams
from robustkit.threat_models.goal import Output


class Access(IntEnum):
    """How much of the model's answer the adversary sees; a higher one includes the lower."""

    DECISION = 1
    SCORE = 2
    GRADIENT = 3

    @classmethod
    def parse(cls, text: str) -> "Access":
        """The access called `decision`, `score` or `gradient`."""
        try:
            return cls[text.upper()]
        except KeyError:
            names = ", ".join(str(access) for access in cls)
            raise BadInput(f"The access {text!r} is unknown. Use one of: {names}.") from None

    def __str__(self) -> str:
        """Lower case, as users type it."""
        return self.name.lower()


class Answers(Protocol):
    """A model that answers with more than logits, or at random."""

    stochastic: bool

    def answer(self, inputs: Tensor, *, streams: Streams | None = None) -> Output:
        """The answers to a batch; `streams` may be None only where `stochastic` is False."""
        ...


def answer(model: nn.Module, inputs: Tensor, streams: Streams | None = None) -> Output:
    """The model's answers to one batch, whatever kind of model it is."""
    inputs = plain(inputs)
    if hasattr(model, "answer"):
        return model.answer(inputs, streams=streams)  # type: ignore[no-any-return,operator]
    logits = model(inputs)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(inputs):
        raise ShapeMismatch(
            f"The model answered {_describe(logits)} to inputs of shape {tuple(inputs.shape)}; "
            "it must return one row of logits per image, a tensor of shape (N, classes)."
        )
    return Output(logits)


def answer_padded(model: nn.Module, inputs: Tensor, streams: Streams | None = None) -> Output:
    """As `answer`, for rows whose last one may have been repeated to fill a batch.

    A model that is asked over a network is not asked about such rows.
    """
    if not labels_only(model):
        return answer(model, inputs, streams)
    changes = (inputs[1:] != inputs[:-1]).flatten(1).any(1).nonzero()
    count = int(changes[-1]) + 2 if len(changes) else 1
    rows = torch.arange(len(inputs), device=inputs.device).clamp_max(count - 1)
    return answer(model, inputs[:count], streams).take(rows)


def plain(inputs: Tensor) -> Tensor:
    """The same values with the strides of a new tensor.

    A convolution chooses its algorithm by the strides, those of axes of length one included; the
    last bits of an answer must not depend on how its question was put together. And models may
    call `view` on what they are given.
    """
    return inputs.contiguous().reshape(-1).view(inputs.shape)


def _describe(value: Any) -> str:  # noqa: ANN401 - whatever a foreign model returns
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def most(model: nn.Module) -> Access:
    """The most that a view of a model can grant: labels if it answers no more, else everything."""
    return Access.DECISION if labels_only(model) else Access.GRADIENT


Observer = Callable[[Tensor, Tensor, Output, Tensor], None]


@dataclass(frozen=True, slots=True)
class Guide:
    """A stand-in whose gradient an attack follows, while its success is tested on the model.

    Attributes:
        module: Differentiable; answers like the model. A random one draws with the model.
        straight_through: Give the model's own logits the stand-in's gradient (BPDA) instead of
            giving the stand-in's logits.

    Reference:
        BPDA: Athalye, Carlini, Wagner: Obfuscated gradients give a false sense of security.
        ICML 2018.
    """

    module: nn.Module
    straight_through: bool = False

    def lead(self, output: Output, inputs: Tensor, streams: Streams | None) -> Output:
        """The model's answers to `inputs`, (N, ...), with this guide's logits beside them."""
        logits = answer(self.module, inputs, streams).logits
        if self.straight_through:
            logits = logits + (output.logits - logits).detach()
        return replace(output, guide=logits)


class Meter:
    """The only way to the model: runs it at a fixed width, charges the ledger, keeps the budget.

    Attributes:
        ledger: Who has spent what.
        most: The most that a view of the model can grant.
        width: Rows in which the model is run; None runs every batch as it comes. A model of labels
            only gets at most so many, without padding: each row would be a query.
        queries: Queries each example may pay for; None for any number.
        stochastic: Whether the model answers at random.
        observer: Told of all queries that somebody pays for, after the answer: what was asked, who
            pays, the answers, and how many queries the payer has then spent. None: nobody is told.
        guide: Whose gradient the answers carry; None for the model's own. Each answer then takes a
            forward pass of both, and the backward pass is the guide's; the query is one.
        dtype: The type in which answers that carry a gradient are computed. Those that do not are
            exact: computed in float32.
    """

    def __init__(
        self,
        model: nn.Module,
        streams: Streams,
        *,
        width: int | None = None,
        queries: int | None = None,
    ) -> None:
        """Args: the model, one stream per example that can pay, the width and the budget."""
        self.width = width
        self.queries = queries
        self.ledger = Ledger(len(streams), streams.ids.device)
        self.stochastic = bool(getattr(model, "stochastic", False))
        self.observer: Observer | None = None
        self.guide: Guide | None = None
        self.dtype = torch.float32
        self.most = most(model)
        self._model = model
        self._streams = streams.fork("search")
        self._calls = 0

    @contextlib.contextmanager
    def guided(self, guide: Guide) -> Iterator[None]:
        """Inside, answers carry this guide's gradient."""
        before, self.guide = self.guide, guide
        try:
            yield
        finally:
            self.guide = before

    def ask(self, inputs: Tensor, payers: Tensor | None) -> Output:
        """Answers to (M, ...) inputs.

        Args:
            inputs: M > 0 rows.
            payers: (M,) int64, which example pays; None when nobody can tell, which a budget does
                not allow. -1 is padding: it pays nothing, and its answer is not given away.

        Raises:
            BudgetExceeded: An example cannot pay; the model was not asked.
        """
        if payers is not None and len(payers) != len(inputs):
            raise ShapeMismatch(f"{len(inputs)} inputs came with {len(payers)} payers.")
        self._refuse_over_budget(payers)
        random = self.stochastic or getattr(self.guide and self.guide.module, "stochastic", False)
        draws = self._draws(payers, len(inputs)) if random else None
        numbers = None if self.observer is None or payers is None else self._numbers(payers) + 1
        self.ledger.charge_forward(len(inputs) if payers is None else payers)
        if self.guide is not None:
            self.ledger.charge_beside(len(inputs) if payers is None else payers)
        parts = []
        for padded_chunk, rows in chunks(inputs, self._rows(inputs)):
            deployed = self.most is Access.DECISION
            chunk = padded_chunk[: rows.stop - rows.start] if deployed else padded_chunk
            bill = rows.stop - rows.start if payers is None else payers[rows]
            watched_chunk = watched(chunk, functools.partial(self.ledger.charge_backward, bill))
            streams = None if draws is None else draws.take(_stretched(rows, len(chunk)))
            answers = self._answers(watched_chunk, streams)
            parts.append(answers.take(slice(0, rows.stop - rows.start)))
        output = Output.cat(parts)
        if payers is None:
            return output
        output = output.hidden(payers < 0)
        if self.observer is not None and numbers is not None:
            with torch.no_grad():
                self.observer(inputs.detach(), payers, output, numbers)
        return output

    def _answers(self, inputs: Tensor, streams: Streams | None) -> Output:
        if self._exact(inputs):
            return self._exact_answers(inputs, streams)
        with torch.autocast(inputs.device.type, dtype=self.dtype):
            return self._exact_answers(inputs, streams).float()

    def _exact(self, inputs: Tensor) -> bool:
        return self.dtype == torch.float32 or not (torch.is_grad_enabled() and inputs.requires_grad)

    def _rows(self, inputs: Tensor) -> int | None:
        """In how many rows the model is run on these inputs."""
        if self.width is None or self.dtype == torch.float32 or not self._exact(inputs):
            return self.width
        # Asking again concerns few rows of a batch; filling up whole batches would cost the gain.
        return max(1, self.width // 8)

    def _exact_answers(self, inputs: Tensor, streams: Streams | None) -> Output:
        self.ledger.rows_run += len(inputs)
        if self.guide is None:
            return answer(self._model, inputs, streams)
        self.ledger.rows_run += len(inputs)
        with torch.no_grad():
            output = answer(self._model, inputs, streams)
        return self.guide.lead(output, inputs, streams)

    def _refuse_over_budget(self, payers: Tensor | None) -> None:
        if self.queries is None:
            return
        if payers is None:
            raise BudgetExceeded("A query under a budget must say which example pays for it.")
        wanted = torch.zeros_like(self.ledger.forward)
        wanted.index_add_(0, payers.clamp_min(0), (payers >= 0).to(wanted.dtype))
        if bool((self.ledger.forward + wanted > self.queries).any()):
            raise BudgetExceeded(f"An example was to be queried more than {self.queries} times.")

    def _draws(self, payers: Tensor | None, count: int) -> Streams:
        """Streams for a random model: every query of an example draws anew."""
        if payers is None:
            self._calls += count
            numbers = torch.arange(count, device=self._streams.ids.device) + self._calls
            return (
                self._streams.fork("unattributed").take(torch.zeros_like(numbers)).on_lanes(numbers)
            )
        return self._streams.take(payers.clamp_min(0)).on_lanes(self._numbers(payers))

    def _numbers(self, payers: Tensor) -> Tensor:
        """(M,) how many queries the payer of each row has spent before it."""
        rows = payers.clamp_min(0)
        # Ranked by payer and not by row: padding must not use up the first example's draws.
        order = payers.argsort(stable=True)
        ordered = payers[order]
        rank = torch.empty_like(rows)
        rank[order] = torch.arange(len(rows), device=rows.device) - torch.searchsorted(
            ordered, ordered
        )
        return self.ledger.forward[rows] + rank


def _stretched(rows: slice, width: int) -> Tensor:
    """Row numbers of a chunk that was padded by repeating its last row."""
    numbers: Tensor = rows.start + torch.arange(width)
    return numbers.clamp_max(rows.stop - 1)


class Decisions:
    """Labels only. One query is one example passed forward.

    Every method takes `rows`: for each input the index of the victim that pays, -1 for padding,
    which is answered with nothing; None means that input i belongs to victim i.
    """

    def __init__(self, meter: Meter, victims: Tensor) -> None:
        """Made by `ThreatModel.view`; `victims` are the meter's examples seen from here."""
        self.__meter = meter
        self.__victims = victims

    @property
    def spent(self) -> Tensor:
        """(N,) int64: queries each victim has paid for."""
        return self.__meter.ledger.forward[self.__victims]

    @property
    def remaining(self) -> Tensor | None:
        """(N,) int64: queries each victim may still pay for; None without a budget."""
        return None if self.__meter.queries is None else self.__meter.queries - self.spent

    @property
    def _dtype(self) -> torch.dtype:
        return self.__meter.dtype

    def __len__(self) -> int:
        """How many victims."""
        return len(self.__victims)

    @property
    def width(self) -> int | None:
        """Rows in which the model is run; the most efficient batch is a multiple. None: any."""
        return self.__meter.width

    def labels(self, inputs: Tensor, rows: Tensor | None = None) -> Tensor:
        """(M,) int64: the labels the model answers; -1 where it refuses."""
        with torch.no_grad():
            return self._ask(inputs, rows).labels

    def take(self, rows: Tensor) -> Self:
        """A view of some of the victims, on the same account."""
        return type(self)(self.__meter, self.__victims[rows])

    @property
    def module(self) -> nn.Module:
        """What this view grants, as a counted module for foreign code.

        It answers logits: one-hot labels here, detached scores or differentiable logits in the
        views that grant more. Where the view has one victim, that one pays; foreign code does not
        say which of several images a query is for, so with more victims the bill is kept for all of
        them together.
        """
        return _Module(self._foreign)

    def _foreign(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            answers = self._ask_foreign(inputs)
            hot = torch.zeros_like(answers.logits)
            named = answers.labels.clamp_min(0)[:, None]
            return hot.scatter_(1, named, (answers.labels >= 0).to(hot.dtype)[:, None])

    def _only_victim(self, inputs: Tensor) -> Tensor | None:
        return self.__victims.expand(len(inputs)) if len(self) == 1 else None

    def _ask_foreign(self, inputs: Tensor) -> Output:
        return self.__meter.ask(inputs, self._only_victim(inputs))

    def _ask(self, inputs: Tensor, rows: Tensor | None) -> Output:
        return self.__meter.ask(inputs, self._payers(inputs, rows))

    def _payers(self, inputs: Tensor, rows: Tensor | None) -> Tensor:
        if rows is None:
            if len(inputs) != len(self):
                raise ShapeMismatch(
                    f"{len(inputs)} inputs came for {len(self)} victims; say in `rows` who "
                    f"pays for which."
                )
            return self.__victims
        return torch.where(rows >= 0, self.__victims[rows.clamp_min(0)], -1)


class Scores(Decisions):
    """Labels and scores, no gradient."""

    def scores(self, inputs: Tensor, rows: Tensor | None = None) -> Tensor:
        """(M, K) logits, detached."""
        with torch.no_grad():
            return self._ask(inputs, rows).logits

    def _foreign(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return self._ask_foreign(inputs).logits


class Gradients(Scores):
    """Everything: answers that carry the graph back to the inputs."""

    @property
    def exact(self) -> bool:
        """Whether answers that carry a gradient are what the verdict would see."""
        return self._dtype == torch.float32

    def answer(self, inputs: Tensor, rows: Tensor | None = None) -> Output:
        """The whole answer, differentiable with respect to `inputs`."""
        return self._ask(inputs, rows)

    def logits(self, inputs: Tensor, rows: Tensor | None = None) -> Tensor:
        """(M, K) logits, differentiable with respect to `inputs`."""
        return self.answer(inputs, rows).logits

    def _foreign(self, inputs: Tensor) -> Tensor:
        return self._ask_foreign(inputs).logits


class _Module(nn.Module):
    def __init__(self, forward: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._forward = forward
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        return self._forward(inputs)


_VIEWS: dict[Access, type[Decisions]] = {
    Access.DECISION: Decisions,
    Access.SCORE: Scores,
    Access.GRADIENT: Gradients,
}


def grant(meter: Meter, access: Access) -> Decisions:
    """A view of all the meter's examples: `Decisions`, `Scores` or `Gradients`.

    Raises:
        DoesNotFit: The model answers with less.
    """
    if access > meter.most:
        raise DoesNotFit(f"The model grants {meter.most} access, and {access} was asked for.")
    everyone = torch.arange(len(meter.ledger.forward), device=meter.ledger.forward.device)
    return _VIEWS[access](meter, everyone)

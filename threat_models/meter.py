"""The only way to the model: it counts every query and refuses those over the budget."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from robustkit.errors import BudgetExceeded, ShapeMismatch
from robustkit.passes import Ledger, chunks, watched
from robustkit.randomness import Streams
from robustkit.threat_models.access import Access
from robustkit.threat_models.answering import answer, most
from robustkit.threat_models.goal import Output

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

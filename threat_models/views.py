"""What the adversary sees: views of a model that grant it and nothing more.

An attack never holds the model. A view that grants too little has no such method, counts every
query for the example that pays for it, and refuses a query over the budget before the model is
asked.
"""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from robustkit.errors import DoesNotFit, ShapeMismatch
from robustkit.threat_models.access import Access
from robustkit.threat_models.goal import NO_NUMBER, Output
from robustkit.threat_models.meter import Meter


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
        """(M,) int64: the labels that the model answers, as `Output.labels` has them."""
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
            hot.scatter_(1, named, (answers.labels >= 0).to(hot.dtype)[:, None])
            return hot.masked_fill(answers.labels[:, None] == NO_NUMBER, torch.nan)

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

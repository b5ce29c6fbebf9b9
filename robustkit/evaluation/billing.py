"""What a search has cost, and what was learned on the way."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from robustkit.evaluation.records import Records
from robustkit.passes import Ledger


@dataclass(frozen=True, kw_only=True, slots=True)
class Bill:
    """The cost of a search for some examples.

    Attributes:
        queries: (N,) answers that each example's adversary saw; None where foreign code cannot
            tell.
        passes: (N,) forward and backward passes for each; likewise.
        forward: All forward passes.
        backward: All backward passes.
        rows_run: Rows the hardware worked on.
        lead: (N,) the largest margin seen; None where the attack cannot tell.
        aims: (N, A) the nearest wrong classes, where they were looked up.
    """

    queries: Tensor | None
    passes: Tensor | None
    forward: int
    backward: int
    rows_run: int
    lead: Tensor | None = None
    aims: Tensor | None = None

    @classmethod
    def of(
        cls,
        ledger: Ledger,
        index: Tensor,
        rows_run: int,
        *,
        lead: Tensor | None = None,
        aims: Tensor | None = None,
    ) -> Self:
        """What the ledger has for some examples."""
        forward, backward = (ledger.forward + ledger.beside)[index], ledger.backward[index]
        return cls(
            queries=ledger.forward[index],
            passes=forward + backward,
            forward=int(forward.sum()),
            backward=int(backward.sum()),
            rows_run=rows_run,
            lead=lead,
            aims=aims,
        )

    @classmethod
    def whole(cls, ledger: Ledger) -> Self:
        """All that the ledger has, where foreign code may not say whose it is."""
        if ledger.attributed:
            everyone = torch.arange(len(ledger.forward), device=ledger.forward.device)
            return cls.of(ledger, everyone, ledger.rows_run)
        passes = ledger.passes
        return cls(
            queries=None,
            passes=None,
            forward=passes.forward,
            backward=passes.backward,
            rows_run=ledger.rows_run,
        )


class Aims:
    """The nearest wrong classes of each example, as far as they have been looked up in a run."""

    def __init__(self, records: Records, count: int, through: str = "direct") -> None:
        """Args: what the run has recorded, how many examples it has, and by whose gradients."""
        self._classes: Tensor | None = None
        self._count = count
        for group in records.groups:
            if group.aims is not None and _slopes(group.through) == _slopes(through):
                self.add(torch.tensor(group.rows), torch.tensor(group.aims))

    def add(self, rows: Tensor, classes: Tensor | None) -> None:
        """Note (M, A) classes of (M,) examples; None is nothing to note."""
        if classes is None:
            return
        if self._classes is None:
            unknown = torch.full((self._count, classes.shape[1]), -1)
            self._classes = unknown
        self._classes[rows] = classes.cpu()

    def known(self, rows: Tensor) -> Tensor:
        """(M,) bool: the examples whose nearest classes are known."""
        if self._classes is None:
            return torch.zeros(len(rows), dtype=torch.bool)
        return self._classes[rows, 0] >= 0

    def take(self, rows: Tensor) -> Tensor | None:
        """(M, A) the classes of some examples; None where nobody has looked at all."""
        return None if self._classes is None else self._classes[rows]


def _slopes(through: str) -> str:
    """Whose gradients a line sees when it looks for the nearest classes."""
    return through if through.startswith("surrogate:") or through == "bpda" else "model"

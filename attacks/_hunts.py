"""How every attack on labels begins."""

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from robustkit.attacks._boundary import Hunt
from robustkit.attacks._starts import check_range
from robustkit.attacks.base import EvasionAttack
from robustkit.attacks.rows import check_rows
from robustkit.randomness import Streams
from robustkit.threat_models import Access, Decisions, Objective, PerturbationSet


class LabelAttack(EvasionAttack[Decisions]):
    """An attack that asks for labels and keeps, for every example, the nearest point that won.

    Attributes:
        queries: Queries per example where the threat model sets no budget.
    """

    access: ClassVar[Access] = Access.DECISION
    minimises: ClassVar[bool] = True

    queries: int

    def run(
        self,
        view: Decisions,
        inputs: Tensor,
        objective: Objective,
        allowed: PerturbationSet,
        *,
        streams: Streams,
    ) -> Tensor:
        """The nearest point found for each input, or the input where no search could start."""
        check_rows(inputs, objective, streams)
        check_range(allowed)
        hunt = Hunt.begin(view, inputs, objective, allowed, streams, queries=self.queries)
        if len(inputs):
            self.search(hunt)
        return hunt.point

    @abstractmethod
    def search(self, hunt: Hunt) -> None:
        """Spend what the victims of `hunt` may ask; all that is kept is what it holds then."""

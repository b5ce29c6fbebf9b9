"""How every attack on labels begins."""

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from robustkit.attacks._boundary import Hunt, Steps
from robustkit.attacks._starts import check_range
from robustkit.attacks._turns import take_turns
from robustkit.attacks.base import EvasionAttack
from robustkit.attacks.rows import check_rows
from robustkit.errors import BadInput
from robustkit.randomness import Streams
from robustkit.threat_models import Access, Decisions, Objective, PerturbationSet

# Parts of the images that search on their own: while one waits for single answers the random steps
# of the others fill its batches. Smaller parts would cost more turns than they save rows.
_PARTS, _FEWEST = 4, 5


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
        if not len(inputs):
            return inputs.detach().clone()
        everyone = torch.arange(len(inputs), device=inputs.device)
        hunts = [
            Hunt.begin(
                view.take(rows),
                inputs[rows],
                objective.take(rows),
                allowed,
                streams.take(rows),
                queries=self.queries,
            )
            for rows in everyone.tensor_split(min(_PARTS, max(1, len(inputs) // _FEWEST)))
        ]
        take_turns(view, hunts, self.search)
        return torch.cat([hunt.point for hunt in hunts])

    @abstractmethod
    def search(self, hunt: Hunt) -> Steps[None]:
        """Spend what the victims of `hunt` may ask; all that is kept is what it holds then.

        Yields:
            Questions, which the hunt has heard the answers to when the search goes on.
        """


def check_at_least(least: float, **values: float) -> None:
    """Refuse hyper-parameters that are too small.

    Raises:
        BadInput: One is below `least` or NaN.
    """
    for name, value in values.items():
        if not value >= least:
            raise BadInput(f"{name} is {value}; it must be at least {least}.")


def check_positive(**values: float) -> None:
    """Refuse hyper-parameters that are no sizes.

    Raises:
        BadInput: One is not larger than 0, or not finite.
    """
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise BadInput(f"{name} is {value}; it must be larger than 0 and finite.")

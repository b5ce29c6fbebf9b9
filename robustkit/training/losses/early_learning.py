"""Early-learning regularisation, for labels some of which are wrong."""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from robustkit.errors import BadInput
from robustkit.training.batch import Batch
from robustkit.training.losses.base import accuracy, logits_of

# Chances are kept off 0 and 1, where the regulariser's logarithm has no slope to give.
_EDGE = 1e-4


class EarlyLearning:
    """Cross-entropy plus a pull towards what the model said of each example before.

    With p the answer and t its moving average over the epochs: CE + weight * log(1 - p @ t). The
    averages are kept per example id and are part of a checkpoint.

    Attributes:
        weight: Of the pull.
        memory: How much of the old average is kept at each visit, in [0, 1).

    Raises:
        BadInput: A weight or memory that means nothing.

    Reference:
        Liu, Niles-Weed, Razavian, Fernandez-Granda: Early-learning regularization prevents
        memorization of noisy labels. NeurIPS 2020.

    Differs from the reference:
        With several processes all of them learn every answer, so that it does not matter which one
        sees an example next.
    """

    def __init__(self, *, weight: float = 3.0, memory: float = 0.7) -> None:
        """Args: see the attributes."""
        if not weight >= 0 or not 0 <= memory < 1:
            raise BadInput(
                f"EarlyLearning takes the weight {weight} and the memory {memory}; give 0 or more "
                "and a share in [0, 1)."
            )
        self.weight = weight
        self.memory = memory
        self._averages: Tensor | None = None

    def __repr__(self) -> str:
        """The hyper-parameters, without what was learnt."""
        return f"EarlyLearning(weight={self.weight}, memory={self.memory})"

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean over the batch."""
        logits = logits_of(model, batch.inputs)
        batch.notes["accuracy"] = accuracy(logits, batch)
        chances = logits.softmax(1).clamp(_EDGE, 1 - _EDGE)
        said = chances.detach() / chances.detach().sum(1, keepdim=True)
        target = self._remember(batch.ids, said)
        pull = torch.log1p(-(target * chances).sum(1).clamp_max(1 - _EDGE)).mean()
        return F.cross_entropy(logits, batch.labels) + self.weight * pull

    def _remember(self, ids: Tensor, said: Tensor) -> Tensor:
        """(N, K) the new averages of this batch's examples."""
        known, answers = _gathered(ids, said)
        table = self._table(int(known.max()) + 1, answers)
        table[known] = self.memory * table[known] + (1 - self.memory) * answers
        return table[ids]

    def _table(self, rows: int, like: Tensor) -> Tensor:
        old = self._averages
        if old is None or len(old) < rows:
            new = like.new_zeros(max(rows, 0 if old is None else 2 * len(old)), like.shape[1])
            if old is not None:
                new[: len(old)] = old
            self._averages = old = new
        elif old.device != like.device:
            self._averages = old = old.to(like.device)
        return old

    def state_dict(self) -> dict[str, Tensor]:
        """The averages."""
        return {} if self._averages is None else {"averages": self._averages.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Give the averages back; an empty state forgets them."""
        self._averages = state["averages"].clone() if "averages" in state else None


def _gathered(ids: Tensor, said: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and answers of all processes, in their order."""
    if not (dist.is_available() and dist.is_initialized()):
        return ids, said
    count = dist.get_world_size()
    all_ids = [torch.empty_like(ids) for _ in range(count)]
    all_said = [torch.empty_like(said) for _ in range(count)]
    dist.all_gather(all_ids, ids.contiguous())
    dist.all_gather(all_said, said.contiguous())
    return torch.cat(all_ids), torch.cat(all_said)

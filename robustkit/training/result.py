"""What a training gives back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustkit.training.history import Record


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The weights and buffers of a model after an epoch, on the CPU.

    Attributes:
        epoch: Epochs done.
        score: On the held-out examples; None where nothing was scored.
        state: Tensors by name.
    """

    epoch: int
    score: float | None
    state: Mapping[str, Tensor]

    @classmethod
    def of(cls, model: nn.Module, *, epoch: int, score: float | None) -> "Snapshot":
        """Copy a model's state."""
        state = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        return cls(epoch, score, state)

    def packed(self) -> dict[str, Any]:
        """As a checkpoint holds it."""
        return {"epoch": self.epoch, "score": self.score, "state": dict(self.state)}

    @classmethod
    def unpacked(cls, content: Mapping[str, Any] | None) -> "Snapshot | None":
        """What `packed` gave; None stays None."""
        if content is None:
            return None
        return cls(content["epoch"], content["score"], content["state"])

    @torch.no_grad()
    def load_into(self, model: nn.Module) -> None:
        """Put the weights and buffers into a model of the same architecture."""
        model.load_state_dict(dict(self.state), strict=True)


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training gives back.

    Attributes:
        best: The epoch with the best held-out score; the last one where nothing was held out. The
            model has these weights.
        last: The last good epoch.
        history: One record per epoch: `epoch`, `steps`, `lr`, `loss`, what the loss noted, held-out
            scores, `seconds`.
        stopped_by: `epochs` (complete), `max_steps`, `signal` (asked to end; can be resumed),
            `diverged` (the loss became NaN or infinite), or the reason of a loss's guard.
    """

    best: Snapshot
    last: Snapshot
    history: tuple[Record, ...]
    stopped_by: str

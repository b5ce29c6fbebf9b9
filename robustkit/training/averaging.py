"""A moving average of the weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from robustkit.errors import BadInput


@dataclass(frozen=True, kw_only=True, slots=True)
class Averaging:
    """An exponential moving average of all weights and batch-norm statistics.

    The averaged model is what is scored, selected and given back. Its statistics are averages of
    those that training gathered, on whatever inputs it saw; they are never estimated anew on clean
    images, which would cost the robustness.

    Attributes:
        decay: Share of the old average that each step keeps, in [0, 1).
        warm_up: Start with a short memory: at step t the decay is at most (1 + t) / (10 + t).

    Raises:
        BadInput: A decay outside [0, 1).
    """

    decay: float = 0.995
    warm_up: bool = True

    def __post_init__(self) -> None:
        """Refuse a decay that means nothing."""
        if not 0 <= self.decay < 1:
            raise BadInput(f"The averaging decay is {self.decay}; it must lie in [0, 1).")

    def start(self, model: nn.Module) -> AveragedModel:
        """A copy of the model, in eval mode, that follows it by `update_parameters`."""
        averaged = AveragedModel(model, multi_avg_fn=self._average(), use_buffers=True)
        return averaged.eval().requires_grad_(requires_grad=False)

    def _average(self) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
        @torch.no_grad()
        def average(old: Sequence[Tensor], new: Sequence[Tensor], count: Tensor | int) -> None:
            number = torch.as_tensor(count).double()
            decay = torch.full_like(number, self.decay)
            if self.warm_up:
                decay = decay.minimum((1 + number) / (10 + number))
            for mean, value in zip(old, new, strict=True):
                if mean.is_floating_point():
                    # A tensor and not a number: reading it would wait for the device.
                    mean.lerp_(value, (1 - decay).to(mean.dtype))
                else:
                    mean.copy_(value)

        return average

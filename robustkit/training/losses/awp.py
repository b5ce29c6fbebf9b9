"""Adversarial weight perturbation, around another loss."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from robustkit.errors import BadInput
from robustkit.training.batch import Batch
from robustkit.training.losses import base
from robustkit.training.losses.adversarial import Adversarial
from robustkit.training.losses.base import Loss, bare, norms, untracked


@dataclass(frozen=True, kw_only=True)
class AWP:
    """Lowers a loss at the weights, near the present ones, where it is worst.

    For every batch the weights take one step up the loss, as long as `gamma` times their own
    length, tensor by tensor; the gradient is taken there and applied to the weights as they were.
    Vectors (biases, batch norm) stay. The loss's attack runs once, before.

    Attributes:
        loss: What is lowered; one without memory and without replays.
        gamma: Length of the step, relative to each tensor's own; 0.01 for PGD training and 0.005
            for TRADES in the reference.
        start_epoch: No perturbation before this epoch, from 0.

    Raises:
        BadInput: A negative gamma or epoch, or a loss it cannot wrap.

    Reference:
        Wu, Xia, Wang: Adversarial weight perturbation helps robust generalization. NeurIPS 2020.

    Differs from the reference:
        No copy of the model: the weights themselves are moved and put back bit for bit; batch norm
        does not record the step up. With accumulation each part of a batch has its own step, with
        several processes they take one step together.
    """

    loss: Loss
    gamma: float = 0.01
    start_epoch: int = 0

    def __post_init__(self) -> None:
        """Refuse hyper-parameters that mean nothing."""
        if not self.gamma >= 0 or self.start_epoch < 0:
            raise BadInput(
                f"AWP takes gamma {self.gamma} from epoch {self.start_epoch}; both must be 0 or "
                "larger."
            )
        if hasattr(self.loss, "around") or hasattr(self.loss, "state_dict"):
            raise BadInput(f"AWP cannot wrap {type(self.loss).__name__}, which has a memory.")

    @contextlib.contextmanager
    def around(self, model: nn.Module, batch: Batch) -> Iterator[None]:
        """Hold the weights at the perturbed point."""
        if batch.epoch < self.start_epoch:
            yield
            return
        module = bare(model)
        if isinstance(self.loss, Adversarial) and batch.changed is None:
            batch.changed = self.loss.craft(module, batch)
        weights = [weight for weight in module.parameters() if _moves(weight)]
        gradients = self._gradients(module, batch, weights)
        before = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                length = self.gamma * weight.norm() / (gradient.norm() + 1e-12)
                weight.add_(gradient * length)
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, old in zip(weights, before, strict=True):
                    weight.copy_(old)

    def _gradients(
        self, module: nn.Module, batch: Batch, weights: Sequence[nn.Parameter]
    ) -> list[Tensor]:
        """Which way is up, the same on every process."""
        training = [layer for layer in norms(module) if layer.training]
        with torch.enable_grad(), untracked(training):
            value = self.loss(module, batch)
            found = torch.autograd.grad(value, weights, allow_unused=True)
        gradients = [
            torch.zeros_like(weight) if gradient is None else gradient
            for weight, gradient in zip(weights, found, strict=True)
        ]
        if dist.is_available() and dist.is_initialized():
            for gradient in gradients:
                # The step is as long as the weights whatever the gradient's length: a sum will do.
                dist.all_reduce(gradient)
        return gradients

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """The wrapped loss, at whatever weights the model has now."""
        return self.loss(model, batch)

    def probe(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """What the wrapped loss measures."""
        return base.probe(self.loss, model, batch)

    def stop(self, history: Sequence[Mapping[str, Any]]) -> str | None:
        """Whether the wrapped loss wants to stop."""
        return base.stop(self.loss, history)


def _moves(weight: nn.Parameter) -> bool:
    return weight.requires_grad and weight.ndim > 1

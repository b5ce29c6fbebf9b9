"""Optimisers, as values."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from robustkit.errors import BadInput


class Optimizer(Protocol):
    """Makes an optimiser of torch for some parameters."""

    @property
    def lr(self) -> float:
        """The learning rate that a schedule's factor multiplies."""
        ...

    def start(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class SGD:
    """Stochastic gradient descent with momentum.

    Attributes:
        lr: The largest learning rate, see the schedule.
        momentum: In [0, 1).
        nesterov: Look ahead along the momentum.
        weight_decay: Added to the gradient, times the weight.
        decay_vectors: Whether biases and batch-norm weights decay too.

    Raises:
        BadInput: A value that means nothing.
    """

    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    decay_vectors: bool = True

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        _check(self.lr, self.weight_decay)
        if not 0 <= self.momentum < 1 or (self.nesterov and not self.momentum):
            raise BadInput(
                f"The momentum is {self.momentum}; it must lie in [0, 1), above 0 with nesterov."
            )

    def start(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser."""
        return torch.optim.SGD(
            _groups(parameters, self.weight_decay, decay_vectors=self.decay_vectors),
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamW:
    """Adam with decoupled weight decay.

    Attributes:
        lr: The largest learning rate, see the schedule.
        beta1: Memory of the gradient, in [0, 1).
        beta2: Memory of its square, in [0, 1).
        weight_decay: Taken off the weight, times the learning rate.
        decay_vectors: Whether biases and batch-norm weights decay too.

    Raises:
        BadInput: A value that means nothing.

    Reference:
        Loshchilov, Hutter: Decoupled weight decay regularization. ICLR 2019.
    """

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.01
    decay_vectors: bool = False

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        _check(self.lr, self.weight_decay)
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise BadInput(f"The betas are {self.beta1} and {self.beta2}; both lie in [0, 1).")

    def start(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser."""
        return torch.optim.AdamW(
            _groups(parameters, self.weight_decay, decay_vectors=self.decay_vectors),
            lr=self.lr,
            betas=(self.beta1, self.beta2),
        )


def _groups(
    parameters: Iterable[nn.Parameter], weight_decay: float, *, decay_vectors: bool
) -> list[dict[str, Any]]:
    """Parameters that decay, and those that do not."""
    everything = list(parameters)
    decays = [decay_vectors or parameter.ndim > 1 for parameter in everything]
    matrices = [p for p, decaying in zip(everything, decays, strict=True) if decaying]
    vectors = [p for p, decaying in zip(everything, decays, strict=True) if not decaying]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _check(lr: float, weight_decay: float) -> None:
    if not 0 < lr < float("inf") or not 0 <= weight_decay < float("inf"):
        raise BadInput(
            f"The learning rate is {lr} and the weight decay {weight_decay}; give one above 0 and "
            "one of 0 or more."
        )

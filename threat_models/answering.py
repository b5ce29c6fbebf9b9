"""Asking any model one batch, and what it grants at most."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from robustkit.errors import ShapeMismatch
from robustkit.models import labels_only
from robustkit.randomness import Streams
from robustkit.threat_models.access import Access
from robustkit.threat_models.goal import Output


class Answers(Protocol):
    """A model that answers with more than logits, or at random."""

    stochastic: bool

    def answer(self, inputs: Tensor, *, streams: Streams | None = None) -> Output:
        """The answers to a batch; `streams` may be None only where `stochastic` is False."""
        ...


def answer(model: nn.Module, inputs: Tensor, streams: Streams | None = None) -> Output:
    """The model's answers to one batch, whatever kind of model it is."""
    inputs = plain(inputs)
    if hasattr(model, "answer"):
        return model.answer(inputs, streams=streams)  # type: ignore[no-any-return,operator]
    logits = model(inputs)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(inputs):
        raise ShapeMismatch(
            f"The model answered {_describe(logits)} to inputs of shape {tuple(inputs.shape)}; "
            "it must return one row of logits per image, a tensor of shape (N, classes)."
        )
    return Output(logits)


def answer_padded(model: nn.Module, inputs: Tensor, streams: Streams | None = None) -> Output:
    """As `answer`, for rows whose last one may have been repeated to fill a batch.

    A model that is asked over a network is not asked about such rows.
    """
    if not labels_only(model):
        return answer(model, inputs, streams)
    changes = (inputs[1:] != inputs[:-1]).flatten(1).any(1).nonzero()
    count = int(changes[-1]) + 2 if len(changes) else 1
    rows = torch.arange(len(inputs), device=inputs.device).clamp_max(count - 1)
    return answer(model, inputs[:count], streams).take(rows)


def plain(inputs: Tensor) -> Tensor:
    """The same values with the strides of a new tensor.

    A convolution chooses its algorithm by the strides, those of axes of length one included; the
    last bits of an answer must not depend on how its question was put together. And models may
    call `view` on what they are given.
    """
    return inputs.contiguous().reshape(-1).view(inputs.shape)


def _describe(value: Any) -> str:  # noqa: ANN401 - whatever a foreign model returns
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def most(model: nn.Module) -> Access:
    """The most that a view of a model can grant: labels if it answers no more, else everything."""
    return Access.DECISION if labels_only(model) else Access.GRADIENT

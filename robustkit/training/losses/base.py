"""The contract of training losses, and what many of them share."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from robustkit.models.frozen import frozen
from robustkit.training.batch import Batch

BatchNormMode = Literal["eval", "batch"]


class Loss(Protocol):
    """What a trainer lowers.

    Losses are frozen keyword-only dataclasses of hyper-parameters, or plain functions. A loss may
    also have, each of them optional:

    - `around(model, batch)`: a context manager held over the forward and the backward pass of a
      batch, for what must be undone afterwards or needs the inputs' gradient;
    - `replays`: how often each batch is stepped on, 1 by default;
    - `probe(model, batch)`: per-example values, by name, on one batch of training examples that
      stays the same, taken after every epoch on the bare model; their means go into the history;
    - `stop(history)`: the reason to stop after this epoch and go back to the one before, or None;
    - `state_dict()` and `load_state_dict(state)`: tensors that must survive a resumed run.
    """

    def __call__(self, model: nn.Module, batch: Batch, /) -> Tensor:
        """The mean loss of a batch, a scalar.

        Args:
            model: In the modes of training; with several processes a wrapper whose forward pass
                takes part in their communication. Attacks get `bare(model)`.
            batch: The examples. Whatever is put into its `notes` is logged.
        """
        ...


def bare(model: nn.Module) -> nn.Module:
    """The model itself, without the wrapper that communicates with other processes."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def logits_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """(N, K) logits in float32, whatever precision the model ran in."""
    logits: Tensor = model(inputs)
    return logits.float()


def around(loss: Loss, model: nn.Module, batch: Batch) -> AbstractContextManager[None]:
    """The loss's own context for a batch; one that does nothing if it has none."""
    own = getattr(loss, "around", None)
    return contextlib.nullcontext() if own is None else own(model, batch)


def replays(loss: Loss) -> int:
    """How often each batch is stepped on."""
    return int(getattr(loss, "replays", 1))


def probe(loss: Loss, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    """What the loss measures after an epoch; empty for most."""
    own = getattr(loss, "probe", None)
    return {} if own is None else own(model, batch)


def stop(loss: Loss, history: Sequence[Mapping[str, Any]]) -> str | None:
    """Why the loss wants to end the training, or None."""
    own = getattr(loss, "stop", None)
    return None if own is None else own(history)


def state_of(loss: Loss) -> dict[str, Tensor]:
    """What the loss must remember across a resumed run."""
    own = getattr(loss, "state_dict", None)
    return {} if own is None else dict(own())


def load_state(loss: Loss, state: Mapping[str, Tensor]) -> None:
    """Give a loss back what `state_of` returned."""
    own = getattr(loss, "load_state_dict", None)
    if own is not None:
        own(state)


@contextlib.contextmanager
def held(model: nn.Module, batch_norm: BatchNormMode = "eval") -> Iterator[nn.Module]:
    """Hold a model still for an attack; every mode and flag is restored afterwards.

    Args:
        model: The bare model.
        batch_norm: `eval` normalises with the running statistics; `batch` with those of the batch
            under attack, where a layer did so before, and leaves the running ones alone.
    """
    training = [layer for layer in norms(model) if layer.training]
    with frozen(model), contextlib.ExitStack() as stack:
        if batch_norm == "batch":
            stack.enter_context(untracked(training))
        yield model


@contextlib.contextmanager
def untracked(layers: Sequence[_BatchNorm]) -> Iterator[None]:
    """Batch norm by the statistics of each batch, without a trace in the running ones."""
    before = [(layer, layer.training, layer.track_running_stats) for layer in layers]
    try:
        for layer in layers:
            layer.training, layer.track_running_stats = True, False
        yield
    finally:
        for layer, training, tracking in before:
            layer.training, layer.track_running_stats = training, tracking


def norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch-norm layers of a model."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def accuracy(logits: Tensor, batch: Batch) -> Tensor:
    """The share of right answers, a detached scalar."""
    return (logits.detach().argmax(1) == batch.classes).float().mean()

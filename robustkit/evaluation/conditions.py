"""What holds while a model is evaluated, whatever the caller has set; put back afterwards."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from robustkit.errors import DeviceLost
from robustkit.models.frozen import frozen
from robustkit.randomness import seed_generators

_ADVICE = {
    True: "What was recorded is kept: the run can be resumed.",
    False: "Nothing was recorded: give a folder (out) to be able to resume a run.",
}


@contextlib.contextmanager
def controlled(model: nn.Module, device: torch.device, seed: int) -> Iterator[None]:
    """Frozen model in eval mode, gradients, full single precision, and a seeded generator.

    A caller's `no_grad`, `inference_mode` and `autocast` do not reach the verdicts.

    Args:
        model: The model to be evaluated.
        device: Where it is.
        seed: Of the global generators, for a model that draws from them by itself. They are given
            back as they were.
    """
    with (
        frozen(model),
        torch.inference_mode(mode=False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        single_precision(),
        _seeded(model, device, seed),
    ):
        yield


@contextlib.contextmanager
def single_precision() -> Iterator[None]:
    """No TensorFloat-32, and for each convolution one algorithm that gives the same bits again."""
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision()
    with cudnn.flags(enabled=cudnn.enabled, deterministic=True, allow_tf32=False):
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def resumable(*, kept: bool) -> Iterator[None]:
    """Say so when the device runs out of memory or fails.

    Args:
        kept: Whether what has been found is on disk.

    Raises:
        DeviceLost: It did.
    """
    try:
        with memory_shortage():
            yield
    except torch.OutOfMemoryError as error:
        raise DeviceLost(
            f"Memory ran out. {_ADVICE[kept]} If it happens again, begin anew with a smaller "
            "batch size."
        ) from error
    except RuntimeError as error:
        if not str(error).startswith("CUDA error"):
            raise
        reason = str(error).splitlines()[0]
        raise DeviceLost(f"The device failed ({reason}). {_ADVICE[kept]}") from error


@contextlib.contextmanager
def memory_shortage() -> Iterator[None]:
    """Let memory that is short on a CPU be told like memory that is short on a GPU.

    Raises:
        torch.OutOfMemoryError: Memory is short.
    """
    try:
        yield
    except MemoryError as error:
        raise torch.OutOfMemoryError(str(error)) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise torch.OutOfMemoryError(str(error)) from error


@contextlib.contextmanager
def _seeded(model: nn.Module, device: torch.device, seed: int) -> Iterator[None]:
    """A model that draws from the global generator does so from a seed, and leaves no trace."""
    if getattr(model, "stochastic", False):
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seed_generators(seed, device)
        yield

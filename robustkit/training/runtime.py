"""Where and how training runs: device, precision, processes."""

import atexit
import contextlib
import inspect
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from robustkit.errors import BadInput

DType = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """Where and how to train. Under `torchrun` every process takes its part of each batch.

    Attributes:
        device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:1`. With several processes
            on GPUs each takes its own.
        dtype: `fp32`, or `bf16` for the passes through the model; weights, losses and optimiser
            stay in float32.
        channels_last: Memory layout of images and convolutions; faster on GPUs with bf16.
        compile: A backend of `torch.compile`, such as `inductor`; None runs as is. The parameters
            are frozen while attacks run, so that compiled graphs compute no gradients for them.
        deterministic: Have torch refuse or replace what differs from run to run on a GPU.

    Raises:
        BadInput: An unknown precision.
    """

    device: str = "auto"
    dtype: DType = "fp32"
    channels_last: bool = False
    compile: str | None = None
    deterministic: bool = False

    def __post_init__(self) -> None:
        """Refuse a precision that is not known."""
        if self.dtype not in get_args(DType):
            raise BadInput(f"The dtype {self.dtype!r} is unknown. Use one of: fp32, bf16.")

    @contextlib.contextmanager
    def open(self) -> Iterator["Session"]:
        """The processes' common session; settings of torch are restored afterwards."""
        device = self._device()
        deterministic = torch.are_deterministic_algorithms_enabled()
        try:
            if device.type == "cuda":
                torch.cuda.set_device(device)
            _join("nccl" if device.type == "cuda" else "gloo")
            if self.deterministic:
                torch.use_deterministic_algorithms(mode=True)
            grouped = dist.is_available() and dist.is_initialized()
            yield Session(
                device=device,
                rank=dist.get_rank() if grouped else 0,
                world=dist.get_world_size() if grouped else 1,
                runtime=self,
            )
        finally:
            torch.use_deterministic_algorithms(mode=deterministic)

    def _device(self) -> torch.device:
        there = torch.cuda.is_available()
        if self.device == "cpu" or (self.device == "auto" and not there):
            return torch.device("cpu")
        name = "cuda" if self.device == "auto" else self.device
        kind, colon, number = name.partition(":")
        if kind != "cuda" or bool(colon) != number.isdigit():
            raise BadInput(f"The device {name!r} is unknown. Use auto, cpu, cuda or cuda:0.")
        count = torch.cuda.device_count() if there else 0
        index = int(number) if number else int(os.environ.get("LOCAL_RANK", "0"))
        if index >= count:
            raise BadInput(
                f"The device cuda:{index} is not there: {count} CUDA devices were found. Use "
                "--device cpu, or fewer processes."
            )
        return torch.device("cuda", index)


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """One process among those that train together.

    Attributes:
        device: Where this process works.
        rank: Its number, from 0; the first one writes.
        world: How many there are.
        runtime: What was asked for.
    """

    device: torch.device
    rank: int
    world: int
    runtime: Runtime

    @property
    def main(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[None]:
        """The precision of forward passes."""
        # Without the cache: it would keep casts of weights that a loss has moved in between.
        return torch.autocast(
            self.device.type,
            dtype=torch.bfloat16,
            enabled=self.runtime.dtype == "bf16",
            cache_enabled=False,
        )

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as losses get it: with several processes, one that averages gradients."""
        if self.world == 1:
            return model
        # Buffers are averaged after each step: broadcasting them before each forward pass would
        # change them between the passes of one loss.
        options: dict[str, Any] = {_broadcasting(): False}
        return DistributedDataParallel(model, **options)

    @contextlib.contextmanager
    def placed(self, model: nn.Module) -> Iterator[None]:
        """Have the model on this device, in the layout and compiled as asked for, then as it was.

        Raises:
            BadInput: The model has nothing to train, or there is no such compiler.
        """
        first = next(model.parameters(), None)
        if first is None:
            raise BadInput(f"The model {type(model).__name__} has no parameters to train.")
        home = first.device
        compiled = model._compiled_call_impl
        model.to(self.device)
        if self.runtime.channels_last:
            _to_layout(model, torch.channels_last)
        if self.runtime.compile is not None:
            _compile(model, self.runtime.compile)
        try:
            yield
        finally:
            model._compiled_call_impl = compiled
            if self.runtime.channels_last:
                _to_layout(model, torch.contiguous_format)
            model.to(home)

    def images(self, inputs: Tensor) -> Tensor:
        """Images on this device, in the layout asked for."""
        moved = inputs.to(self.device, non_blocking=True)
        if self.runtime.channels_last:
            return moved.contiguous(memory_format=torch.channels_last)
        return moved

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, the same on each; the tensor itself is changed."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def same(self, model: nn.Module) -> None:
        """Start all processes from the first one's parameters and buffers."""
        if self.world == 1:
            return
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                dist.broadcast(tensor, 0)

    def average_buffers(self, model: nn.Module) -> None:
        """Give every process the mean of all processes' buffers, such as running statistics."""
        if self.world == 1:
            return
        buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        if not buffers:
            return
        with torch.no_grad():
            flat = torch.cat([buffer.flatten() for buffer in buffers])
            mean = self.sum(flat) / self.world
            parts = torch.split(mean, [buffer.numel() for buffer in buffers])
            for buffer, part in zip(buffers, parts, strict=True):
                buffer.copy_(part.view_as(buffer))


def _broadcasting() -> str:
    """What torch calls it in this version."""
    names = inspect.signature(DistributedDataParallel).parameters
    return "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"


def _compile(model: nn.Module, backend: str) -> None:
    from torch._dynamo.exc import InvalidBackend

    try:
        model.compile(backend=backend)
    except InvalidBackend as error:
        raise BadInput(
            f"torch has no compiler backend called {backend!r}. Use inductor, or none."
        ) from error


def _join(backend: str) -> None:
    """Join the processes that torchrun started, once; they stay together until they end.

    Leaving after each training and meeting again at the same address is a race: one process may
    find the meeting that another has not closed yet, and wait there for ever.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group(backend)
        atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _to_layout(model: nn.Module, layout: torch.memory_format) -> None:
    # nn.Module.to(memory_format=...) leaves all but four-dimensional tensors alone.
    model.to(memory_format=layout)

# ruff: noqa: ANN401 - PyTorch hands over whatever an operation was given
"""A second device where there is none: CPU tensors that say they live elsewhere.

Inside `accelerator()` the device `meta` holds real numbers. An operation that mixes its tensors
with the CPU's fails, as it would between a GPU and its host, and so does one that would create its
result on the wrong side. So the checks of `test_devices` find what otherwise only a GPU shows.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")
_aten: Any = torch.ops.aten
# The host may hand an accelerator indices, and either may fill the other by a copy.
_MIXES = {_aten.copy_.default, _aten._to_copy.default}
_INDEXED = {
    _aten.index.Tensor,
    _aten.index_put_.default,
    _aten.index_put.default,
    _aten._index_put_impl_.default,
}


class There(Tensor):
    """A tensor on the second device; `here` holds its numbers."""

    here: Tensor

    @staticmethod
    def __new__(cls: type, here: Tensor) -> "There":
        """Wrap a CPU tensor."""
        made: There = Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=DEVICE,
            requires_grad=here.requires_grad,
        )
        made.here = here
        return made

    def tolist(self) -> Any:
        """The numbers; PyTorch refuses it for subclasses."""
        return self.here.tolist()

    def data_ptr(self) -> int:
        """Where the numbers are."""
        return self.here.data_ptr()

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        """What is inside."""
        return ["here"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], *_: object) -> "There":
        """The reverse."""
        return There(inner["here"])

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Any,
        types: object,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        """Run an operation that no mode has seen."""
        return _run(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]


class Accelerator(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sends what is created on the second device there."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: object,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        """Run one operation."""
        return _run(func, args, kwargs or {})


class Literals(TorchFunctionMode):
    """Fills tensors that are written out in the code, which `meta` leaves empty."""

    def __torch_function__(
        self,
        func: Any,
        types: object,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        """Build them on the CPU and send them there."""
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = list(_tensors((*args, *kwargs.values())))
    there = any(isinstance(value, There) for value in tensors)
    if there:
        _check(func, args, tensors)
    inside = {name: _here(value) for name, value in kwargs.items()}
    if kwargs.get("device") is not None:
        there = torch.device(kwargs["device"]) == DEVICE
        inside["device"] = torch.device("cpu") if there else kwargs["device"]
    found = func(*(_here(value) for value in args), **inside)
    if not there:
        return found
    if func._schema.is_mutable:
        return args[0]
    return _sent(found)


def _sent(value: Any) -> Any:
    if isinstance(value, Tensor):
        return There(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_sent(one) for one in value)
    return value


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _here(value: Any) -> Any:
    if isinstance(value, There):
        return value.here
    if isinstance(value, (list, tuple)):
        return type(value)(_here(one) for one in value)
    return value


def _check(func: Any, args: Any, tensors: list[Tensor]) -> None:
    """Refuse what a GPU would refuse."""
    if func in _MIXES:
        return
    host = [value for value in tensors if not isinstance(value, There)]
    if func in _INDEXED and isinstance(args[0], There):
        host = [value for value in host if all(value is not index for index in args[1])]
    if any(value.dim() for value in host) or (host and func in _INDEXED and host == [args[0]]):
        raise RuntimeError(f"Expected all tensors to be on the same device: {func}")


@contextlib.contextmanager
def accelerator() -> Iterator[torch.device]:
    """Let there be a second device."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    autocast = torch.autocast

    def cast(kind: str, **options: Any) -> torch.autocast:
        return autocast("cpu" if kind == DEVICE.type else kind, **options)

    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        mode = Accelerator()  # type: ignore[no-untyped-call]
        with mode, Literals(), mock.patch.object(torch, "autocast", cast):
            yield DEVICE
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)

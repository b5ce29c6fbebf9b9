"""What identifies a model: its modules, its bytes and its size."""

import hashlib
import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn

# What modules may say of themselves that differs between processes or devices.
_PASSING = re.compile(r"0x[0-9a-fA-F]+| ?\(?\b(cpu|cuda|mps|xpu)(:\d+)?\b\)?")


def fingerprint(model: nn.Module) -> str:
    """SHA-256, in hexadecimal, of a model's modules and of all its parameters and buffers.

    Of modules, names, classes and what they say of themselves (`extra_repr`) count, in their order;
    of tensors names, types, shapes and bytes; device, memory layout, mode and `requires_grad` do
    not. What `forward` itself computes is not seen. A model that `labels_only` shows none of them:
    its address and what it says of itself count.
    """
    if labels_only(model):
        return str(model.identity)
    digest = hashlib.sha256()
    for name, module in model.named_modules(remove_duplicate=False):
        said = _PASSING.sub("", module.extra_repr())
        digest.update(f"{name} {type(module).__qualname__} {said}\n".encode())
    for name, tensor in sorted(_tensors(model), key=lambda pair: pair[0]):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        if values.numel():
            digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def labels_only(model: nn.Module) -> bool:
    """Whether a model shows its labels and nothing else: no scores, no gradients, no weights."""
    return getattr(model, "labels_only", False) is True


def parameter_count(model: nn.Module) -> int | None:
    """How many numbers the model's parameters hold; shared ones count once, buffers do not.

    None for a model that `labels_only`.
    """
    if labels_only(model):
        return None
    return sum(parameter.numel() for parameter in model.parameters())


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)

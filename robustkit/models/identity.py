"""What identifies a model: its bytes and its size."""

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


def fingerprint(model: nn.Module) -> str:
    """SHA-256, in hexadecimal, of a model's class name and of all its parameters and buffers.

    Names, types, shapes and bytes count; device, memory layout, mode and `requires_grad` do not.
    """
    digest = hashlib.sha256(type(model).__qualname__.encode())
    for name, tensor in sorted(_tensors(model), key=lambda pair: pair[0]):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        if values.numel():
            digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def parameter_count(model: nn.Module) -> int:
    """How many numbers the model's parameters hold; shared ones count once, buffers do not."""
    return sum(parameter.numel() for parameter in model.parameters())


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)

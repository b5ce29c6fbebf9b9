"""Holding a model still while it is attacked or judged."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Eval mode, no parameter gradients; every module's mode and every flag is restored afterwards.

    Frozen parameters spare attacks that call `backward` the gradients of the weights.
    """
    modes = {module: module.training for module in model.modules()}
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        model.eval().requires_grad_(requires_grad=False)
        yield model
    finally:
        for module, training in modes.items():
            # Not `train()`, which would also set the children.
            module.training = training
        for parameter, flag in flags.items():
            # What was made in inference mode takes a flag nowhere else.
            with torch.inference_mode(mode=parameter.is_inference()):
                parameter.requires_grad_(flag)

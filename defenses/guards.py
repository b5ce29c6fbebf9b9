"""Catching a clean pass that quietly costs a robust model its robustness."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from robustkit.errors import DoesNotFit


@contextlib.contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Refuse what changes a model's buffers while it runs on clean images.

    An adversarially trained model normalises with the statistics of attacked images. A clean pass
    in training mode replaces them: clean accuracy shows nothing, and robustness collapses.

    Args:
        model: Watched from here to the end of the block; its buffers, persistent or not, are put
            back if they were changed.

    Raises:
        DoesNotFit: A buffer differs by a bit at the end of the block.
    """
    before = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        after = dict(model.named_buffers())
        changed = [name for name, old in before.items() if not same(old, after[name])]
        with torch.no_grad():
            for name in changed:
                after[name].copy_(before[name])
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise DoesNotFit(
            f"A pass over clean images changed the model's buffer {changed[0]!r}{more}. Such "
            "statistics belong to the images of adversarial training, and robustness collapses "
            "without them. They were put back; freeze the layer that gathers them."
        )


def same(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two tensors have the same values, NaN included, wherever they are."""
    return torch.allclose(
        first, second.to(first.device, first.dtype), rtol=0, atol=0, equal_nan=True
    )

"""Losses by name."""

from collections.abc import Callable

from robustkit import registry
from robustkit.errors import UnknownName
from robustkit.training.losses.base import Loss


def loss_class(name: str) -> Callable[..., Loss]:
    """What makes the loss that is registered under a name.

    Raises:
        UnknownName: There is none.
    """
    known = registry.entries("losses")
    if name not in known:
        raise UnknownName("loss", name, known)
    made: Callable[..., Loss] = known[name].load()
    return made

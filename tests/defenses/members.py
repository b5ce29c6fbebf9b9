"""Three small classifiers of digits that were trained apart."""

import functools
from collections.abc import Mapping

from torch import Tensor

from robustkit import data
from robustkit.models.cnn import CNN
from robustkit.training import SGD, OneCycle, Trainer
from tests.evaluation.victims import network


@functools.cache
def _state(seed: int) -> Mapping[str, Tensor]:
    model = network(seed=seed)
    Trainer(epochs=4, batch_size=64, optimizer=SGD(lr=0.1), schedule=OneCycle(), seed=seed).fit(
        model, data.load("digits", split="train")
    )
    return model.state_dict()


def trained(seed: int) -> CNN:
    """The network of this seed, a fresh copy in eval mode."""
    model = network(seed=seed)
    model.load_state_dict(_state(seed))
    return model.eval()


def members(count: int = 3) -> list[CNN]:
    """Several of them."""
    return [trained(seed) for seed in range(count)]

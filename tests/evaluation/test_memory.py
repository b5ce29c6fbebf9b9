"""Memory does not grow with the number of examples: images are read when their turn comes."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from robustkit import evaluate
from robustkit.attacks import FGSM, PGD
from robustkit.data import LabelledImages
from robustkit.data.pixels import ArrayPixels
from robustkit.threat_models import ThreatModel, load

SIDE = 32


def images(n: int) -> LabelledImages:
    """`n` images that together take the memory of one."""
    one = np.full((1, 3, SIDE, SIDE), 0.5, np.float32)
    stored = np.broadcast_to(one, (n, 3, SIDE, SIDE))
    labels = torch.zeros(n, dtype=torch.int64)
    return LabelledImages(ArrayPixels(array=stored), labels, spec="made")


class Dull(nn.Module):
    """Answers class 0, and has a slope."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        slopes = torch.tensor([1.0, 0.5, 0.5, 0.5])
        return self.scale * slopes * inputs.mean((1, 2, 3))[:, None]


def peak(action: Callable[[], object]) -> int:
    """Bytes that Python and NumPy held at most while this ran."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("attack", [FGSM(), PGD(steps=2)])
def test_ten_times_the_examples_take_hardly_more_memory(attack: FGSM | PGD) -> None:
    adversary: ThreatModel = load("linf")
    few, many = images(200), images(2000)
    # Hashing reads some megabytes at a time, whatever their number, and would hide the rest.
    assert few.sha256 != many.sha256

    def run(data: LabelledImages) -> None:
        report = evaluate(Dull(), data, adversary, attacks=[attack], batch_size=32)
        assert report.attacks[0].examples_in == len(data)

    run(few)
    growth = peak(lambda: run(many)) - peak(lambda: run(few))
    bytes_per_image = 3 * SIDE * SIDE * 4
    assert growth / 1800 < bytes_per_image / 4

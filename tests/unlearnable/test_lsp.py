"""LSP: a linear classifier tells the classes of its patterns, and of nothing else."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from robustkit.attacks.base import PoisoningAttack
from robustkit.data import LabelledImages
from robustkit.errors import BadInput
from robustkit.threat_models import LpBall
from robustkit.unlearnable import AR, LSP, UniformNoise
from tests.unlearnable.small import images, quick, streams, threat

L2 = threat("l2", perturbation=LpBall(norm="l2", radius=1.3))


def changes(attack: PoisoningAttack, n: int = 600) -> tuple[LabelledImages, torch.Tensor]:
    """Grey images of ten classes, and what was added to each."""
    grey = torch.full((n, 3, 16, 20), 128, dtype=torch.uint8)
    data = LabelledImages.from_tensors(grey, torch.arange(n) % 10)
    found = attack.run(data, L2, trainer=quick(), streams=streams(data))
    return data, found.data.inputs(slice(None)) - 128 / 255


def told_apart(attack: PoisoningAttack) -> float:
    """How often a linear classifier is right on patterns that it has not seen."""
    data, change = changes(attack)
    rows, labels = change.flatten(1).numpy(), data.labels.numpy()
    model = LogisticRegression(C=1e4, max_iter=300).fit(rows[:300], labels[:300])
    return float(np.mean(model.predict(rows[300:]) == labels[300:]))


def test_patterns_are_linearly_separable() -> None:
    assert told_apart(LSP()) == 1.0
    # Two that are not: nothing to tell apart, and nothing linear.
    assert told_apart(UniformNoise()) < 0.3
    assert told_apart(AR(candidates=32)) < 0.9


def test_patterns_are_blocks_of_the_asked_length() -> None:
    _, change = changes(LSP(), n=20)
    blocks = change.unfold(2, 8, 8)[:, :, :, :16].unfold(3, 8, 8)[:, :, :, :2].flatten(4)
    assert torch.equal(blocks.amin(4), blocks.amax(4))
    lengths = change.flatten(1).norm(dim=1)
    # Rounding towards the clean image takes less than a level of each value.
    assert bool((lengths <= 1.3).all())
    assert bool((lengths > 1.3 - (change[0].numel() ** 0.5) / 255).all())


def test_each_image_has_a_pattern_of_its_own() -> None:
    _, change = changes(LSP(), n=20)
    assert not torch.equal(change[0], change[10])


def test_too_few_blocks_for_the_classes_are_refused() -> None:
    data = images(6, shape=(1, 8, 8), classes=5)
    with pytest.raises(BadInput, match=r"2 corners for 5 classes\. Give a smaller patch"):
        LSP().run(data, L2, trainer=quick(), streams=streams(data))
    LSP(patch=4).run(data, L2, trainer=quick(), streams=streams(data))


def test_values_that_mean_nothing_are_refused() -> None:
    for options in ({"patch": 0}, {"separation": 0.0}):
        with pytest.raises(BadInput, match="patches"):
            LSP(**options)

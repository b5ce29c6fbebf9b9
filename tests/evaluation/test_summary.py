"""What a report sums up: each number about the examples and attacks that it names."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from robustkit import evaluate
from robustkit.attacks import PGD
from robustkit.models.cnn import CNN
from tests.evaluation.victims import digits, threat


def test_a_broken_example_tells_of_the_attack_that_broke_it(model: CNN, tmp_path: Path) -> None:
    images, attacks = digits(12), [PGD(steps=5)]
    alone = evaluate(model, images, threat(), attacks=attacks)
    swept = evaluate(model, images, threat(), attacks=attacks, eps_sweep=[0.05], out=tmp_path)
    fell = [example for example in alone.examples if example.status == "broken"]
    assert fell
    # FMN has measured them all once more, and found nearer points.
    assert set(fell) <= set(swept.examples)
    kept = load_file(tmp_path / "examples.safetensors")
    for row, point in zip(kept["ids"].tolist(), kept["inputs"], strict=True):
        change = (point - images.inputs([row])[0]).abs().max()
        assert swept.examples[row].distance == pytest.approx(float(change))

"""What the paper on CGBA compares: steps of reduced dimension against all dimensions."""

from dataclasses import replace

import pytest
import torch

from robustkit import data, evaluate
from robustkit.attacks import CGBA
from robustkit.threat_models import Budget, load


@pytest.mark.slow
def test_with_few_queries_low_frequencies_lead_nearer_than_all() -> None:
    threat = replace(load("l2-decision"), budget=Budget(queries=150))
    images = data.load("samples:cifar10", n=8)
    found = []
    for reduction in (2, 1):
        attack = CGBA(reduction=reduction, common=0)
        report = evaluate("builtin:cifar10-resnet18", images, threat, attacks=[attack])
        found.append([example.distance for example in report.examples])
    reduced, full = torch.tensor(found)
    assert float((reduced / full).log().mean()) < 0

"""What the paper on CGBA compares: reduced against full dimension, CGBA-H against CGBA."""

from dataclasses import replace

import pytest
import torch

from robustkit import evaluate
from robustkit.attacks import CGBA, CGBAH
from robustkit.attacks._semicircles import Semicircles
from robustkit.threat_models import Budget, Targeted, load

pytestmark = pytest.mark.slow


def distances(attack: Semicircles, queries: int, *, targeted: bool = False) -> torch.Tensor:
    """(N,) the smallest changes found on the real network and images, right at the start."""
    threat = load("l2-decision")
    goal = Targeted("random") if targeted else threat.goal
    threat = replace(threat, budget=Budget(queries=queries), goal=goal)
    report = evaluate("builtin:cifar10-resnet18", "samples:cifar10", threat, attacks=[attack])
    right = [example for example in report.examples if example.status != "misclassified"]
    return torch.tensor([example.distance or torch.inf for example in right])


def test_with_few_queries_low_frequencies_lead_nearer_than_all() -> None:
    reduced, full = (distances(CGBA(reduction=reduction, common=0), 400) for reduction in (2, 1))
    assert float((reduced / full).log().mean()) < -0.02


def test_with_a_target_cgba_h_leads_nearer_than_cgba() -> None:
    careful, direct = (
        distances(kind(reduction=2, common=0), 300, targeted=True) for kind in (CGBAH, CGBA)
    )
    assert float((careful / direct).log().mean()) < -0.02

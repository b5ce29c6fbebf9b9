"""HopSkipJump against known answers and against Foolbox's, in both norms."""

import pytest
import torch

from robustkit.attacks import FoolboxAttack, HopSkipJump
from robustkit.threat_models.perturbation import Norm
from tests.attacks.conftest import Victims
from tests.attacks.decisions import attacked
from tests.oracles import linear_problem

norms = pytest.mark.parametrize("norm", ["l2", "linf"])


@norms
def test_linear_boundaries_are_met(norm: Norm) -> None:
    problem = linear_problem(interior=True, examples=4)
    result = attacked(
        HopSkipJump(),
        problem.model,
        problem.clean,
        problem.labels,
        queries=2500,
        width=64,
        norm=norm,
    )
    ratio = result.distance / problem.smallest(norm)
    assert bool((ratio > 1 - 1e-5).all())
    assert float(ratio.max()) < 1.15


@norms
def test_it_is_no_worse_than_foolboxs(norm: Norm, digits: Victims) -> None:
    few = digits.first(6)
    theirs = FoolboxAttack(class_name="HopSkipJumpAttack", options=(("constraint", norm),))
    ours, other = (
        attacked(attack, few.model, few.inputs, few.labels, queries=600, width=width, norm=norm)
        for attack, width in ((HopSkipJump(), 8), (theirs, 1))
    )
    assert float(ours.distance.mean()) < 1.1 * float(other.trace.smallest([600]).mean())


def test_in_linf_a_target_is_reached_and_the_way_to_it_shortened(digits: Victims) -> None:
    few = digits.first(6)
    targets = (few.labels + 3) % 10
    starts = torch.stack([digits.inputs[digits.labels == t][:3] for t in targets.tolist()])
    early, late = (
        attacked(
            HopSkipJump(),
            few.model,
            few.inputs,
            few.labels,
            queries=queries,
            targets=targets,
            starts=starts,
            norm="linf",
        )
        for queries in (30, 1500)
    )
    assert torch.equal(few.model(late.points).argmax(1), targets)
    assert bool((late.distance < early.distance).all())
    assert float(late.distance.mean()) < 0.6 * float(early.distance.mean())

"""What the catalogue says of Foolbox's attacks: that it is all of them, and that each runs."""

import inspect
import re
import sys

import foolbox
import pytest
import torch
from foolbox.attacks.base import Attack, FixedEpsilonAttack, MinimizationAttack

from robustkit.attacks._foolbox_catalogue import ALIASES, CATALOGUE
from robustkit.attacks.building import build
from robustkit.attacks.foolbox import FoolboxAttack, parameters
from robustkit.errors import BadInput
from robustkit.threat_models import (
    Access,
    LpBall,
    Objective,
    Targeted,
    ThreatModel,
    Untargeted,
)
from tests.attacks.conftest import Victims
from tests.attacks.foreign import against, threat

_SHORT = {"steps": "10"}


def exported() -> dict[str, type]:
    return {
        name: kind
        for name, kind in vars(foolbox.attacks).items()
        if inspect.isclass(kind) and issubclass(kind, Attack) and kind is not Attack
    }


def test_the_catalogue_knows_every_attack_of_foolbox() -> None:
    kinds = exported()
    assert set(CATALOGUE) | set(ALIASES) == set(kinds)
    for short, name in ALIASES.items():
        assert kinds[short] is kinds[name]
    for name, known in CATALOGUE.items():
        if not known.never:
            assert known.minimises == issubclass(kinds[name], MinimizationAttack), name
            assert known.minimises != issubclass(kinds[name], FixedEpsilonAttack), name


def test_the_catalogue_names_foolboxs_distances() -> None:
    by_name = {
        "Linf distance": "linf",
        "L2 distance": "l2",
        "L1 distance": "l1",
        "L0 distance": "l0",
    }
    for name, kind in exported().items():
        known = CATALOGUE[ALIASES.get(name, name)]
        distance = by_name.get(str(getattr(kind, "distance", None)))
        if distance is not None and name != "HopSkipJumpAttack":
            assert known.norms == (distance,), name


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("LinfPGD", {"norm": "l2"}, "works in linf"),
        ("L2DeepFoolAttack", {"norm": "l2", "goal": Targeted()}, "pursues untargeted"),
        ("GenAttack", {"goal": Untargeted()}, "pursues targeted"),
        ("HopSkipJumpAttack", {"low": -1.0}, r"value range \[0, 1\]"),
        ("SpatialAttack", {}, "rotates and shifts"),
        ("DatasetAttack", {}, "other people's images"),
        ("LinfPGD", {"radius": float("inf")}, "finite radius"),
    ],
)
def test_why_not(name: str, change: dict[str, object], reason: str) -> None:
    ball = {"norm": "linf", "radius": 0.1} | {
        key: value for key, value in change.items() if key != "goal"
    }
    granted = ThreatModel(
        name="t",
        goal=change.get("goal", Untargeted()),  # type: ignore[arg-type]
        perturbation=LpBall(**ball),  # type: ignore[arg-type]
    )
    given = FoolboxAttack(class_name=name).why_not(granted)
    assert given is not None
    assert re.search(reason, given)


def test_an_instance_says_what_its_attack_needs() -> None:
    by_label = FoolboxAttack(class_name="HopSkipJumpAttack")
    assert by_label.access is Access.DECISION
    assert by_label.norms == {"linf", "l2"}
    assert by_label.minimises
    constrained = FoolboxAttack(class_name="HopSkipJumpAttack", options=(("constraint", "linf"),))
    assert constrained.norms == {"linf"}
    descent = FoolboxAttack(class_name="L1PGD")
    assert descent.access is Access.GRADIENT
    assert descent.norms == {"l1"}
    assert not descent.minimises
    assert FoolboxAttack.access is Access.DECISION


def test_an_options_mistake_is_told_before_the_run() -> None:
    with pytest.raises(BadInput, match="no option stepz"):
        FoolboxAttack(class_name="LinfPGD", options=(("stepz", 3),))


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_every_attack_of_foolbox_runs(digits: Victims, name: str) -> None:
    known = CATALOGUE[name]
    if known.never or ("BrendelBethge" in name and "numba" not in sys.modules):
        pytest.skip("never runs, or needs numba")
    few = digits.first(3)
    attack = build(f"foolbox:{name}", _SHORT if "steps" in parameters(name) else {})
    assert isinstance(attack, FoolboxAttack)
    objective = few.objective
    if "untargeted" not in known.goals:
        objective = Objective(few.labels, (few.labels + 1) % 10)
    granted = threat(known.norms[0], known.access, queries=60)
    points, verdict = against(attack, granted, few, objective)
    assert points.shape == few.inputs.shape
    assert points.dtype == torch.float32
    assert bool(granted.allowed.in_box(points).all())
    assert int(verdict.queries.max()) <= 60
    if not known.minimises:
        assert bool(verdict.allowed.all())

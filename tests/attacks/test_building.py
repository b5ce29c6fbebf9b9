"""Attacks from words, and the words from attacks."""

import subprocess
import sys

import pytest

from robustkit import registry
from robustkit.attacks import FGSM, PGD, StepLL
from robustkit.attacks.building import build, describe, name_of
from robustkit.errors import BadInput, MissingExtra, UnknownName
from robustkit.threat_models import Access


def test_own_attacks_by_name() -> None:
    assert build("pgd") == PGD()
    assert build("fgsm") == FGSM()
    assert build("step-ll") == StepLL()


def test_options_become_what_the_fields_are_declared_as() -> None:
    attack = build(
        "pgd",
        {
            "steps": "7",
            "step_size": "2/8",
            "loss": "DLR",
            "random_start": "false",
            "momentum": "0.5",
        },
    )
    assert attack == PGD(steps=7, step_size=0.25, loss="dlr", random_start=False, momentum=0.5)
    assert build("pgd", {"step_size": "none"}) == PGD()


@pytest.mark.parametrize(
    ("key", "text", "says"),
    [
        ("steps", "2.5", "whole number"),
        ("steps", "many", "whole number"),
        ("step_size", "1/0", "8/255"),
        ("step_size", "nan", "8/255"),
        ("random_start", "yes", r"true or false"),
        ("loss", "hinge", "cross-entropy, margin, dlr"),
        ("step", "3", "steps, step_size, loss, random_start"),
        ("attempts", "3", "steps, step_size, loss, random_start"),
    ],
)
def test_wrong_options_say_what_is_allowed(key: str, text: str, says: str) -> None:
    with pytest.raises(BadInput, match=says) as raised:
        build("pgd", {key: text})
    assert key in str(raised.value)


def test_an_attacks_own_refusal_comes_through() -> None:
    with pytest.raises(BadInput, match="at least 1"):
        build("pgd", {"steps": "0"})


@pytest.mark.parametrize(
    ("spec", "near"),
    [
        ("pgdd", "pgd"),
        ("foolbox:HopSkipJump", "HopSkipJumpAttack"),
    ],
)
def test_unknown_names_offer_near_ones(spec: str, near: str) -> None:
    with pytest.raises(UnknownName, match=f"Did you mean.*{near}"):
        build(spec)


@pytest.mark.parametrize("spec", ["pgd:fast", "pgd:", "foolbox", "foolbox:"])
def test_a_colon_where_it_does_not_belong(spec: str) -> None:
    with pytest.raises(BadInput, match=r"variants|needs the name"):
        build(spec)


def test_autoattack_by_version() -> None:
    assert describe(build("autoattack")) == {"version": "standard"}
    assert describe(build("autoattack:rand")) == {"version": "rand"}
    with pytest.raises(BadInput, match="standard, plus, rand"):
        build("autoattack:strong")
    with pytest.raises(BadInput, match="give one"):
        build("autoattack:rand", {"version": "plus"})


def test_options_of_foolbox_are_its_constructors() -> None:
    attack = build("foolbox:LinfPGD", {"steps": "3", "abs_stepsize": "8/255"})
    assert describe(attack) == {
        "rel_stepsize": 0.01 / 0.3,
        "abs_stepsize": 8 / 255,
        "steps": 3,
        "random_start": True,
    }
    with pytest.raises(BadInput, match="rel_stepsize, abs_stepsize, steps, random_start"):
        build("foolbox:LinfPGD", {"step": "3"})
    with pytest.raises(BadInput, match="one of linf or one of l2"):
        build("foolbox:HopSkipJumpAttack", {"constraint": "l1"})


def test_foolbox_refusals_are_bad_input() -> None:
    with pytest.raises(BadInput, match="directions"):
        build("foolbox:LinearSearchBlendedUniformNoiseAttack", {"directions": "0"})
    with pytest.raises(BadInput, match="needs the option steps"):
        build("foolbox:VirtualAdversarialAttack")
    with pytest.raises(UnknownName, match="PointwiseAttack"):
        build("foolbox:BoundaryAttack", {"init_attack": "Pointwise"})


def test_a_package_that_foolbox_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(MissingExtra, match="numba"):
        build("foolbox:L2BrendelBethgeAttack")


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        ("pgd", {"steps": "3", "step_size": "1/4"}),
        ("fgsm", {}),
        ("step-ll", {}),
        ("autoattack", {}),
        ("autoattack:plus", {}),
        ("foolbox:LinfPGD", {"steps": "3"}),
        ("foolbox:BoundaryAttack", {"init_attack": "SaltAndPepperNoiseAttack"}),
        ("foolbox:HopSkipJumpAttack", {}),
    ],
)
def test_name_and_description_build_the_attack_again(spec: str, options: dict[str, str]) -> None:
    attack = build(spec, options)
    assert name_of(attack) == spec
    again = build(spec, {key: str(value) for key, value in describe(attack).items()})
    assert describe(again) == describe(attack)


def test_the_registry_says_what_the_classes_say() -> None:
    for entry in registry.entries("attacks").values():
        kind = entry.load()
        assert str(kind.access) == entry.access, entry.name
        assert kind.norms == set(entry.norms), entry.name
        assert kind.goals == set(entry.goals), entry.name


def test_an_unregistered_attack_goes_by_its_class() -> None:
    class Own(PGD):
        pass

    assert name_of(Own()) == "Own"
    assert Own().access is Access.GRADIENT


def test_foreign_packages_need_not_even_exist() -> None:
    code = """
import sys
sys.modules.update(dict.fromkeys(("foolbox", "eagerpy", "pyautoattack")))
from robustkit.attacks.building import build, describe, name_of
from robustkit.errors import MissingExtra
for spec in ("pgd", "fgsm", "step-ll"):
    assert name_of(build(spec)) == spec
for foreign in ("foolbox:LinfPGD", "autoattack"):
    try:
        build(foreign)
    except MissingExtra as error:
        assert foreign.partition(":")[0] in str(error)
    else:
        raise SystemExit("built without its package")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_foreign_packages_are_not_imported_unasked() -> None:
    code = """
import sys
from robustkit.attacks.building import build
build("pgd")
assert not {"foolbox", "eagerpy", "pyautoattack"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

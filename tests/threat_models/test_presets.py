"""Threat models by name and from files, radii, budgets."""

import dataclasses
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustkit import registry
from robustkit.errors import BadInput, CorruptFile, MissingFile, UnknownName
from robustkit.threat_models import (
    Access,
    Availability,
    Budget,
    Convolutions,
    LpBall,
    Patch,
    Stage,
    Targeted,
    ThreatModel,
    Untargeted,
    load,
    parse_radius,
)


@pytest.mark.parametrize("name", list(registry.entries("threats")))
def test_a_preset_carries_the_name_it_is_registered_under(name: str) -> None:
    threat = load(name)
    assert isinstance(threat, ThreatModel)
    assert threat.name == name
    assert registry.find("threats", name).summary


def test_the_presets_are_what_the_documentation_says() -> None:
    said = {
        "linf": ("linf", 8 / 255, Access.GRADIENT, None),
        "l2": ("l2", 0.5, Access.GRADIENT, None),
        "l1": ("l1", 12.0, Access.GRADIENT, None),
        "linf-decision": ("linf", 8 / 255, Access.DECISION, 5000),
        "l2-decision": ("l2", 0.5, Access.DECISION, 5000),
    }
    for name, (norm, radius, access, queries) in said.items():
        threat = load(name)
        assert threat.allowed == LpBall(norm=norm, radius=radius)  # type: ignore[arg-type]
        assert (threat.access, threat.budget.queries) == (access, queries)
        assert (threat.stage, threat.goal) == (Stage.INFERENCE, Untargeted())


def test_near_names_are_offered() -> None:
    with pytest.raises(UnknownName, match="Did you mean linf"):
        load("linff")
    with pytest.raises(UnknownName, match="Known: "):
        load("")


def write(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


BALL = '[perturbation]\nnorm = "linf"\nradius = "4/255"\n'


def test_a_whole_file(tmp_path: Path) -> None:
    text = (
        'name = "printer"\nstage = "inference"\naccess = "score"\ngoal = "targeted:second"\n'
        '[perturbation]\nnorm = "l2"\nradius = 1.5\nlow = -1\nhigh = 2.5\n[budget]\nqueries = 10\n'
    )
    assert load(write(tmp_path, text)) == ThreatModel(
        name="printer",
        goal=Targeted("second"),
        access=Access.SCORE,
        perturbation=LpBall(norm="l2", radius=1.5, low=-1.0, high=2.5),
        budget=Budget(queries=10),
    )


def test_what_a_file_leaves_out_has_a_default(tmp_path: Path) -> None:
    assert load(write(tmp_path, BALL)) == ThreatModel(
        name="mine", perturbation=LpBall(norm="linf", radius=4 / 255)
    )


def test_a_patch_in_a_file(tmp_path: Path) -> None:
    assert load(write(tmp_path, "[perturbation]\npatch = [3, 5]\n")).allowed == Patch(
        height=3, width=5
    )


def test_an_adversary_of_training_data_in_a_file(tmp_path: Path) -> None:
    text = (
        'stage = "training"\ngoal = "availability"\naccess = "decision"\n'
        "[perturbation]\nkernel = 5\n[budget]\npoison_rate = 0.8\nmay_relabel = true\n"
    )
    assert load(write(tmp_path, text)) == ThreatModel(
        name="mine",
        stage=Stage.TRAINING,
        goal=Availability(),
        access=Access.DECISION,
        perturbation=Convolutions(kernel=5),
        budget=Budget(poison_rate=0.8, may_relabel=True),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "norm and radius, or patch, or kernel"),
        ("[perturbation]\nkernel = 4\n", "odd number"),
        ("[perturbation]\nkernel = 3.0\n", "odd number"),
        ("[perturbation]\nkernel = true\n", "odd number"),
        ("[perturbation]\nkernel = 3\nlow = 0.5\n", "must hold 0"),
        (BALL + "[budget]\npoison_rate = 1.5\n", "must lie in"),
        (BALL + '[budget]\npoison_rate = "all"\n', "must be a number"),
        (BALL + "[budget]\nmay_relabel = 1\n", "true or false"),
        ('[perturbation]\nnorm = "linf"\n', "norm and radius"),
        ("[perturbation]\nradius = 0.1\n", "norm and radius"),
        ('[perturbation]\nnorm = "l7"\nradius = 0.1\n', "'l7' is unknown"),
        ('[perturbation]\nnorm = ["linf"]\nradius = 0.1\n', "unknown"),
        ('[perturbation]\nnorm = "linf"\nradius = "8/0"\n', "divides by zero"),
        ('[perturbation]\nnorm = "linf"\nradius = nan\n', "not allowed"),
        ('[perturbation]\nnorm = "linf"\nradius = -1\n', "not allowed"),
        ('[perturbation]\nnorm = "linf"\nradius = true\n', "no number"),
        ('[perturbation]\nnorm = "linf"\nradius = [1]\n', "no number"),
        ('[perturbation]\nnorm = "linf"\nradius = 1\nlow = "0"\n', "low is '0'"),
        ('[perturbation]\nnorm = "linf"\nradius = 1\nhigh = true\n', "high is True"),
        ('[perturbation]\nnorm = "linf"\nradius = 1\nlow = 2\n', "empty"),
        ('[perturbation]\nnorm = "linf"\nradius = 1\nepsilon = 2\n', "unknown epsilon"),
        ("[perturbation]\npatch = [3]\n", "height, width"),
        ("[perturbation]\npatch = [3.5, 2]\n", "height, width"),
        ("[perturbation]\npatch = [true, 2]\n", "height, width"),
        ("[perturbation]\npatch = [-1, 2]\n", "0 or larger"),
        ("perturbation = 5\n", "must be a table"),
        ("[[perturbation]]\nnorm = 'linf'\nradius = 1\n", "must be a table"),
        ("budget = 5\n" + BALL, "must be a table"),
        (BALL + "[budget]\nqueries = 0\n", "at least 1"),
        (BALL + "[budget]\nqueries = -5\n", "at least 1"),
        (BALL + "[budget]\nqueries = 2.5\n", "whole number"),
        (BALL + "[budget]\nqueries = true\n", "whole number"),
        (BALL + "[budget]\nqueries = '9'\n", "whole number"),
        (BALL + "[budget]\nquery = 9\n", "unknown query"),
        ('access = "root"\n' + BALL, "decision, score, gradient"),
        ("access = 3\n" + BALL, "decision, score, gradient"),
        ('goal = "win"\n' + BALL, "untargeted"),
        ('stage = "never"\n' + BALL, "inference, training, release"),
        ('colour = "red"\n' + BALL, "unknown colour"),
    ],
)
def test_files_that_say_something_else_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        load(write(tmp_path, text))


@pytest.mark.parametrize("text", ["= 3", "[perturbation", 'name = "a\nb"', "\x00"])
def test_what_is_no_toml_is_corrupt(tmp_path: Path, text: str) -> None:
    with pytest.raises(CorruptFile, match="cannot be read as TOML"):
        load(write(tmp_path, text))


def test_bytes_that_are_no_text_are_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "bytes.toml"
    path.write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(CorruptFile):
        load(str(path))


def test_a_file_that_is_not_there_is_missing_and_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"nowhere\.toml"):
        load(str(tmp_path / "nowhere.toml"))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(CorruptFile):
        load(str(tmp_path / "folder.toml"))


@pytest.mark.parametrize(
    ("text", "radius"),
    [
        ("8/255", 8 / 255),
        (" 8 / 255 ", 8 / 255),
        ("0.5", 0.5),
        ("0", 0.0),
        ("1e-3", 1e-3),
        ("12", 12.0),
        (12, 12.0),
        (0.031, 0.031),
        ("inf", math.inf),
    ],
)
def test_radii(text: str | float, radius: float) -> None:
    assert parse_radius(text) == radius


@pytest.mark.parametrize(
    "text",
    ["8/0", "nan", "-1", "abc", "", "/", "8/", "/255", "1/2/3", "-8/255", "nan/1", "0/0", "inf/inf",
     "8:255", "1,5", "-inf", "True"],
)  # fmt: skip
def test_radii_that_are_none(text: str) -> None:
    with pytest.raises(BadInput, match="8/255") as raised:
        parse_radius(text)
    assert repr(text) in str(raised.value)


@given(st.floats(0, 1e6))
def test_a_printed_radius_is_read_back(radius: float) -> None:
    assert parse_radius(repr(radius)) == radius


@pytest.mark.parametrize(
    "arguments", [{"queries": 0}, {"queries": -1}, {"poison_rate": -0.1}, {"poison_rate": 1.1},
                  {"poison_rate": math.nan}]
)  # fmt: skip
def test_budgets_that_mean_nothing_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(BadInput):
        Budget(**arguments)  # type: ignore[arg-type]


def test_threat_models_are_values() -> None:
    assert load("linf") == load("linf")
    assert hash(load("linf")) == hash(load("linf"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        load("linf").name = "other"  # type: ignore[misc]

"""The registry: every line leads somewhere, near names are offered, plug-ins and extras work."""

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from robustkit import registry
from robustkit.errors import BadInput, MissingExtra, RobustkitWarning, UnknownName
from robustkit.registry import KINDS, Entry, entries, find

EVERYTHING = [(kind, name) for kind in KINDS for name in entries(kind)]


@pytest.mark.parametrize(("kind", "name"), EVERYTHING)
def test_every_line_leads_to_something_callable(kind: str, name: str) -> None:
    entry = find(kind, name)
    assert callable(entry.load())
    assert re.fullmatch(r"[a-z0-9]+([-:][a-z0-9]+)*", name)
    assert entry.summary
    assert not entry.summary.endswith(".")
    assert len(entry.summary) <= 100


def test_no_name_is_registered_twice() -> None:
    keys = [(entry.kind, entry.name) for entry in registry.BUILTIN]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_hold_their_own_entries_and_cannot_be_changed(kind: str) -> None:
    assert all(entry.kind == kind for entry in entries(kind).values())
    with pytest.raises(TypeError):
        entries(kind)["new"] = find("attacks", "pgd")  # type: ignore[index]


def test_only_attacks_say_what_they_need() -> None:
    for entry in registry.BUILTIN:
        assert bool(entry.access and entry.norms and entry.goals) is (entry.kind == "attacks")


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("attacks", "pdg", "No attack is called 'pdg'. Did you mean pgd"),
        ("attacks", "PGD", "Did you mean pgd"),
        ("attacks", "", "Known: "),
        ("models", "resnet18", "resnet-18"),
        ("threats", "l-inf", "linf"),
        ("data", "cifar", "cifar10"),
    ],
)
def test_unknown_names_offer_near_ones(kind: str, name: str, said: str) -> None:
    with pytest.raises(UnknownName, match=re.escape(said)) as raised:
        find(kind, name)
    assert isinstance(raised.value, BadInput | LookupError)


def test_an_unknown_kind_is_told() -> None:
    with pytest.raises(UnknownName, match=", ".join(sorted(KINDS))):
        entries("attack")


def test_a_missing_package_names_the_extra_that_brings_it() -> None:
    entry = Entry(kind="models", name="x", target="not_there_at_all:y", summary="s", extra="timm")
    with pytest.raises(MissingExtra, match=r"pip install 'robustkit\[timm\]'"):
        entry.load()
    with pytest.raises(MissingExtra, match="pip install 'not_there_at_all'"):
        Entry(kind="models", name="x", target="not_there_at_all:y", summary="s").load()


@pytest.fixture
def fresh() -> Iterator[None]:
    """The registry is read once per process."""
    registry._all.cache_clear()
    yield
    registry._all.cache_clear()


def test_other_packages_add_lines(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("mine", "tests.test_registry:PLUGIN", "robustkit")
    monkeypatch.setattr(registry, "entry_points", lambda group: EntryPoints([point]))
    assert find("attacks", "mine").load() is find
    assert "pgd" in entries("attacks")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("not_there_at_all:ENTRIES", "cannot be read: ModuleNotFoundError"),
        ("tests.test_registry:find", "cannot be read: TypeError"),
        ("tests.test_registry:WRONG_TYPE", "is no robustkit.registry.Entry"),
        ("tests.test_registry:WRONG_KIND", "'mine' is of the kind 'attack'; known are attacks,"),
        ("tests.test_registry:TAKEN", "another attack is called 'pgd' already"),
        ("tests.test_registry:TWICE", "another attack is called 'mine' already"),
    ],
)
def test_a_faulty_plugin_is_told_and_left_out(
    value: str, said: str, fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [EntryPoint("faulty", value, "robustkit"), EntryPoint("good", GOOD, "robustkit")]
    monkeypatch.setattr(registry, "entry_points", lambda group: EntryPoints(points))
    with pytest.warns(RobustkitWarning, match=re.escape(said)) as warned:
        assert find("attacks", "pgd") is next(e for e in registry.BUILTIN if e.name == "pgd")
    assert len(warned) == 1
    assert "'faulty'" in str(warned[0].message)
    assert find("attacks", "mine-too")


GOOD = "tests.test_registry:SECOND"
WRONG_TYPE = [{"kind": "attacks"}]
WRONG_KIND = [Entry(kind="attack", name="mine", target="a:b", summary="s")]
TAKEN = [Entry(kind="attacks", name="pgd", target="a:b", summary="s")]
TWICE = [Entry(kind="attacks", name="mine", target="a:b", summary="s")] * 2
SECOND = [Entry(kind="attacks", name="mine-too", target="a:b", summary="s")]
PLUGIN = (Entry(kind="attacks", name="mine", target="robustkit.registry:find", summary="s"),)


def test_listing_imports_no_torch() -> None:
    code = (
        "import sys; from robustkit import registry\n"
        "assert all(registry.entries(kind) for kind in registry.KINDS)\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""The project file agrees with the tree."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FAMILIES = ("attacks", "defenses", "threat_models")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def packages_in_the_tree() -> set[str]:
    """Every folder with an `__init__.py`, the families under the name they are packaged as."""
    found = set()
    for top in ("robustkit", *FAMILIES):
        for file in (ROOT / top).rglob("__init__.py"):
            parts = file.parent.relative_to(ROOT).parts
            if not (ROOT / Path(*parts[:2])).is_symlink():
                found.add(".".join(parts if top == "robustkit" else ("robustkit", *parts)))
    return found


def test_every_package_is_listed(project: dict[str, Any]) -> None:
    listed = project["tool"]["setuptools"]["packages"]
    assert listed == sorted(packages_in_the_tree())


def test_the_families_are_packaged_inside_robustkit(project: dict[str, Any]) -> None:
    expected = {"robustkit": "robustkit"} | {f"robustkit.{name}": name for name in FAMILIES}
    assert project["tool"]["setuptools"]["package-dir"] == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_tools_find_the_families_through_relative_links(family: str) -> None:
    assert (ROOT / "robustkit" / family).readlink() == Path("..", family)


def test_ruff_skips_the_links_and_coverage_names_all_folders(project: dict[str, Any]) -> None:
    tool = project["tool"]
    assert tool["ruff"]["extend-exclude"] == [f"robustkit/{name}" for name in FAMILIES]
    assert tool["coverage"]["run"]["source"] == ["robustkit", *FAMILIES]


def test_versions_agree(project: dict[str, Any]) -> None:
    version = project["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


def test_constraints_cover_what_is_required(project: dict[str, Any]) -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonical(line.split("==")[0]) for line in lines if not line.startswith("#")}
    required = (
        project["project"]["dependencies"] + project["project"]["optional-dependencies"]["dev"]
    )
    names = {canonical(line.split(">")[0].split("[")[0]) for line in required}
    assert names <= pinned


def canonical(name: str) -> str:
    return name.lower().replace("_", "-")

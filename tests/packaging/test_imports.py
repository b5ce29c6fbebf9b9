"""What importing the package does, and what it refuses."""

import ast
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAMILIES = ("attacks", "defenses", "threat_models")
LAZY = ("robustkit", *(f"robustkit.{name}" for name in FAMILIES), "robustkit.unlearnable")

# Imports all modules but the two adapters while the packages that they adapt cannot be imported.
WITHOUT_FOREIGN_ATTACKS = """
import pkgutil, sys
sys.modules["foolbox"] = sys.modules["eagerpy"] = sys.modules["pyautoattack"] = None
import robustkit
adapters = {"robustkit.attacks.foolbox", "robustkit.attacks.autoattack"}
for module in pkgutil.walk_packages(robustkit.__path__, "robustkit."):
    if module.name not in {*adapters, "robustkit.__main__"}:
        __import__(module.name)
"""


def python(code: str, *, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_refuses_its_short_name(family: str) -> None:
    spec = importlib.util.spec_from_file_location(family, ROOT / family / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ImportError, match=rf"Import robustkit\.{family}, not {family}"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_a_family_refuses_its_short_name_where_python_finds_it() -> None:
    result = python("import attacks.base")
    assert result.returncode == 1
    assert "ImportError: Import robustkit.attacks, not attacks" in result.stderr


@pytest.mark.parametrize("package", LAZY)
def test_every_exported_name_exists(package: str) -> None:
    module = importlib.import_module(package)
    for name in module.__all__:
        assert hasattr(module, name)
        assert name in dir(module)


@pytest.mark.parametrize("package", LAZY)
def test_type_checkers_see_the_names_that_python_exports(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__file__ is not None
    tree = ast.parse(Path(module.__file__).read_text())
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    seen = [
        alias.asname
        for block in blocks
        if ast.unparse(block.test) == "TYPE_CHECKING"
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    ]
    assert sorted(map(str, seen)) == module.__all__


@pytest.mark.parametrize("package", LAZY)
def test_an_unknown_name_is_an_attribute_error(package: str) -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = importlib.import_module(package).Nothing


def test_a_lazily_imported_name_stays() -> None:
    module = importlib.import_module("robustkit")
    for name in module.__all__:
        assert getattr(module, name) is vars(module)[name]


def test_the_package_and_its_registry_do_not_import_torch() -> None:
    modules = ", ".join(("sys", *LAZY, "robustkit.registry"))
    assert python(f"import {modules}; print('torch' in sys.modules)").stdout == "False\n"


def test_only_the_adapters_need_the_foreign_attack_packages() -> None:
    result = python(WITHOUT_FOREIGN_ATTACKS)
    assert result.returncode == 0, result.stderr

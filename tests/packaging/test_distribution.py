"""Wheel and sdist hold the package, install, and work beside a folder called `attacks`."""

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAMILIES = ("attacks", "defenses", "threat_models")

PURELIB = "import sysconfig; print(sysconfig.get_path('purelib'))"

# Run in a folder with an `attacks` of its own. Prints where the package was found.
WORKS = """
import attacks, importlib.metadata, pkgutil, robustkit, robustkit.attacks, robustkit.registry
assert attacks.FOREIGN and not hasattr(robustkit.attacks, "FOREIGN")
for family in ("attacks", "defenses", "threat_models"):
    assert family in {module.name for module in pkgutil.iter_modules(robustkit.__path__)}
for name in robustkit.__all__:
    getattr(robustkit, name)
assert robustkit.__version__ == importlib.metadata.version("robustkit")
print(robustkit.__file__)
"""


def run(*command: str | Path, folder: Path) -> str:
    result = subprocess.run(
        list(map(str, command)), cwd=folder, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def source_files() -> set[str]:
    """The package's files by the path they are distributed under."""
    found = set()
    for top in ("robustkit", *FAMILIES):
        for file in (ROOT / top).rglob("*"):
            parts = file.relative_to(ROOT).parts
            through_link = (ROOT / Path(*parts[:2])).is_symlink()
            if file.is_file() and file.suffix != ".pyc" and not through_link:
                found.add("/".join(parts if top == "robustkit" else ("robustkit", *parts)))
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from the sdist."""
    copy = tmp_path_factory.mktemp("source") / "robustkit"
    unwanted = shutil.ignore_patterns(".git", ".*_cache", ".venv*", "build", "dist", "*.egg-info")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=unwanted)
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, copy, folder=out)
    return out


@pytest.fixture
def beside_foreign_attacks(tmp_path: Path) -> Path:
    (tmp_path / "attacks").mkdir()
    (tmp_path / "attacks" / "__init__.py").write_text("FOREIGN = True\n")
    return tmp_path


def test_the_wheel_holds_every_file_once_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert sorted(names) == sorted(source_files())


def test_the_sdist_holds_what_a_build_needs(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    at_the_root = {
        name.removeprefix("robustkit/") if name.split("/")[1] in FAMILIES else name
        for name in source_files()
    }
    assert at_the_root | {"pyproject.toml", "README.md", "LICENSE"} <= names


@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_it_installs_and_works_beside_a_foreign_attacks_package(
    built: Path, beside_foreign_attacks: Path, kind: str
) -> None:
    (archive,) = built.glob(kind)
    environment = beside_foreign_attacks / "environment"
    venv.create(environment, symlinks=True)
    interpreter = environment / "bin" / "python"
    purelib = Path(run(interpreter, "-c", PURELIB, folder=beside_foreign_attacks).strip())
    # The dependencies come from here; a path file's folder is searched, its own path files are not
    # read, so that an editable install of the package stays out.
    (purelib / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = (sys.executable, "-m", "pip", "--python", interpreter, "install", "--quiet")
    offline = ("--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed")
    run(*pip, *offline, archive, folder=beside_foreign_attacks)

    place = run(interpreter, "-c", WORKS, folder=beside_foreign_attacks).strip()
    assert Path(place) == purelib / "robustkit" / "__init__.py"
    command = environment / "bin" / "robustkit"
    assert "evaluate" in run(command, "--help", folder=beside_foreign_attacks)

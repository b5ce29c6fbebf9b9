"""What the source of an attack must not do: leave the device, or name one."""

import ast
from pathlib import Path

import pytest

import robustkit.attacks

FOLDER = Path(next(iter(robustkit.attacks.__path__)))
# Adapters of foreign code and what only they use.
ADAPTERS = {"autoattack.py", "foolbox.py", "_foreign.py", "_foolbox_catalogue.py"}
SOURCES = sorted(path for path in FOLDER.rglob("*.py") if path.name not in ADAPTERS)
LEAVES_THE_DEVICE = {"item", "cpu", "numpy", "tolist", "cuda"}


def offences(source: str) -> list[str]:
    """Calls that wait for the device or leave it, and devices named by a text."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in LEAVES_THE_DEVICE:
            found.append(f"line {node.lineno}: .{node.attr}")
        named = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if named and node.value.partition(":")[0] in ("cuda", "cpu"):  # type: ignore[attr-defined]
            found.append(f"line {node.lineno}: {ast.unparse(node)}")  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_attacks_stay_on_the_device(path: Path) -> None:
    assert offences(path.read_text(encoding="utf-8")) == []


def test_there_is_something_to_look_at() -> None:
    assert {"base.py", "fgsm.py", "pgd.py", "losses.py", "steps.py"} <= {p.name for p in SOURCES}


@pytest.mark.parametrize(
    "line",
    ["x.item()", "x.cpu()", "x.detach().numpy()", "x.tolist()", "x.cuda()", "x.to('cuda')",
     "torch.zeros(3, device='cuda:0')", "torch.device('cpu')", "f = x.item"],
)  # fmt: skip
def test_offences_are_seen(line: str) -> None:
    assert len(offences(line)) == 1


@pytest.mark.parametrize("line", ["x.to(y.device)", "items = {}.items()", "'a cpu is slow'"])
def test_what_is_no_offence_is_let_pass(line: str) -> None:
    assert offences(line) == []

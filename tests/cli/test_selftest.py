"""`robustkit selftest`: our attacks pass, planted faults are caught, in foreign code as well."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from robustkit.attacks import APGD, PGD, build
from robustkit.errors import DoesNotFit
from robustkit.evaluation import selftest
from robustkit.evaluation.selftest_faults import ClampInside
from robustkit.evaluation.selftest_tasks import task_of
from tests.cli.conftest import Invoke

OWN = """
import torch
from robustkit.attacks import PGD, Square
from robustkit.evaluation.selftest_faults import ClampInside, Unclamped

sound = PGD(steps=20)
faulty = ClampInside
other = 3

def outside():
    return Unclamped(steps=20)

def broken():
    raise KeyError("no such thing")

class Raises(PGD):
    def run(self, *arguments, **options):
        raise ValueError("in the attack")
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_attacks.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("my_attacks", None)


def test_all_is_well(invoke: Invoke) -> None:
    threads = torch.get_num_threads()
    result = invoke("selftest")
    assert result.code == 0, result.out
    assert "FAILED" not in result.out
    assert "checks passed" in result.out
    for fault in ("ClampInside", "Recentred", "Unclamped"):
        assert fault in result.out
    assert torch.get_num_threads() == threads


def test_the_clamp_inside_the_graph_is_seen_where_values_are_0_and_1_and_nowhere_else() -> None:
    checks = list(selftest.examine(ClampInside()))
    failed = {check.name for check in checks if not check.passed}
    assert failed == {"linf: values at 0 and 1", "l2: values at 0 and 1"}
    assert all("clamp inside" in check.hint for check in checks if not check.passed)
    # It is the fault and not the algorithm: the same steps without it pass.
    assert all(check.passed for check in selftest.examine(PGD(steps=40, step_size=0.1)))


def test_weak_attacks_fail() -> None:
    failed = [c.name for c in selftest.examine(PGD(steps=8, step_size=0.05)) if not c.passed]
    assert "linf: values away from 0 and 1" in failed
    assert "linf: twice the steps" in failed


def test_the_reference_is_that_of_foolbox() -> None:
    other = build("foolbox:LinfPGD", {"steps": "40", "rel_stepsize": "0.0625"})
    robust, outside = selftest._accuracy(other, task_of("linf", "ends"))
    assert outside == 0
    assert abs(robust - task_of("linf", "ends").reference) <= 0.03


def test_a_self_test_that_sees_no_fault_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    check = selftest._caught(PGD(random_start=False))
    assert not check.passed
    assert check.found == "not caught"


def test_attacks_of_ones_own(invoke: Invoke) -> None:
    result = invoke("selftest --attack my_attacks:sound")
    assert result.code == 0, result.out
    result = invoke("selftest --attack my_attacks:faulty")
    assert result.code == 3
    assert "clamp inside" in " ".join(result.out.split())
    assert "2 of" in result.out
    result = invoke("selftest --attack my_attacks:outside")
    assert result.code == 3
    assert "project around the clean" in " ".join(result.out.split())


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("my_attacks", "package.module:factory"),
        ("no_such_module:x", "no module 'no_such_module'"),
        ("my_attacks:missing", "AttributeError"),
        ("my_attacks:other", "TypeError"),
        ("my_attacks:broken", "no such thing"),
        ("my_attacks:Raises", "in the attack"),
        ("pathlib:Path", "gives a"),
    ],
)
def test_what_is_no_attack_is_refused(spec: str, words: str, invoke: Invoke) -> None:
    result = invoke(f"selftest --attack {spec}")
    assert result.code == 2, result.err
    assert words in result.err
    assert "Traceback" not in result.err


def test_attacks_that_fit_neither_norm_are_refused() -> None:
    class SparseOnly(APGD):
        norms = frozenset({"l1"})

    with pytest.raises(DoesNotFit, match="untargeted goals in linf and l2"):
        list(selftest.examine(SparseOnly()))


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys; from robustkit.cli import run; run(['selftest', '--help']); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

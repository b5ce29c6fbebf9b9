"""Searching in bfloat16: faster, and without a say in the verdict."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustkit import evaluate
from robustkit.attacks import APGD, FGSM, FMN, PGD
from robustkit.errors import BadInput
from robustkit.evaluation import evasion
from robustkit.evaluation.flags_diagnosis import Diagnosis
from robustkit.evaluation.progress import Silent
from robustkit.report import EvasionReport
from robustkit.threat_models import Budget
from tests.evaluation.victims import digits, outcome, threat, victim

N, STEPS = 30, 6


def run(model: nn.Module, dtype: str, **changes: Any) -> EvasionReport:  # noqa: ANN401
    arguments: dict[str, Any] = {"attacks": [PGD(steps=STEPS)], "batch_size": 8, **changes}
    return evaluate(model, digits(N), threat(), dtype=dtype, **arguments)


class Spy(nn.Module):
    """The classifier of digits; notes down whether it is asked in bfloat16 and with a gradient.

    Attributes:
        fooled: What it adds to the logits of a wrong class when it is asked in bfloat16.
    """

    def __init__(self, fooled: float = 0.0) -> None:
        super().__init__()
        self.model = victim()
        self.fooled = fooled
        self.asked: list[tuple[bool, bool]] = []
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        low = torch.is_autocast_enabled("cpu")
        self.asked.append((low, torch.is_grad_enabled() and inputs.requires_grad))
        logits: Tensor = self.model(inputs)
        if low and self.fooled:
            logits = logits + self.fooled * nn.functional.one_hot(logits.argmin(1), 10)
        return logits


class Told(Silent):
    """Lets a spy forget what was asked before the run."""

    def __init__(self, spy: Spy) -> None:
        self.spy = spy

    def stage(self, name: str, total: int, done: int) -> None:
        if name == "clean":
            self.spy.asked.clear()


def test_gradients_are_searched_by_in_bfloat16_and_verdicts_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evasion, "diagnose", lambda *_, **__: Diagnosis())
    spy = Spy()
    report = run(spy, "bf16", attacks=[FGSM(), PGD(steps=STEPS)], progress=Told(spy))
    assert report.environment.dtype == "bfloat16"
    assert {low for low, graph in spy.asked if not graph} == {False}
    # The first step of FGSM is the clean pass, which everything else is held against.
    first = -(-N // 8)
    assert [low for low, graph in spy.asked if graph][: first + 1] == [False] * first + [True]
    assert all([low for low, graph in spy.asked if graph][first:])


def test_the_whole_search_is_exact_unless_asked_otherwise() -> None:
    spy = Spy()
    report = evaluate(spy, digits(N), threat(), attacks=[PGD(steps=2)], batch_size=8)
    assert report.environment.dtype == "float32"
    assert not any(low for low, _ in spy.asked)


def test_what_only_bfloat16_is_fooled_by_is_searched_further_and_not_counted() -> None:
    report = run(Spy(fooled=1e3), "bf16")
    (row,) = report.attacks
    right = row.examples_in
    # Nobody leaves at a success that does not hold: each step is asked about twice.
    stood = right - row.broken
    assert stood
    assert row.forward >= 2 * STEPS * stood
    # Asking again about a row does not take a whole batch.
    assert report.cost.rows_run < 3 * report.cost.forward
    assert report.violations == 0


def test_verdicts_hardly_differ() -> None:
    plan = [FGSM(), PGD(steps=STEPS), APGD(steps=10, targets=2, ranking="nearest")]
    high, low = (run(victim(), dtype, attacks=plan) for dtype in ("fp32", "bf16"))
    changed = [
        a.id for a, b in zip(high.examples, low.examples, strict=True) if a.status != b.status
    ]
    assert 0.3 <= high.robust_accuracy.value <= 0.7
    assert len(changed) <= 1


def test_the_smallest_change_is_searched_for_exactly() -> None:
    high, low = (run(victim(), dtype, attacks=[FMN(steps=10)]) for dtype in ("fp32", "bf16"))
    assert outcome(high) == outcome(low)


def test_asking_again_is_paid_for_and_keeps_the_budget() -> None:
    limited = dataclasses.replace(threat(), budget=Budget(queries=5))
    report = evaluate(
        Spy(fooled=1e3), digits(N), limited, attacks=[PGD(steps=40)], batch_size=8, dtype="bf16"
    )
    spent = [example.queries for example in report.examples if example.queries is not None]
    assert max(spent) == 5
    assert report.violations == 0


def test_a_run_is_not_gone_on_with_in_another_type(tmp_path: Path) -> None:
    run(victim(), "bf16", out=tmp_path / "run")
    with pytest.raises(BadInput, match="another run"):
        run(victim(), "fp32", out=tmp_path / "run", resume=True)


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(BadInput, match=r"'fp16' is unknown.*fp32, bf16"):
        run(victim(), "fp16")

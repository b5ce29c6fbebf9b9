"""The attack of the page on extending robustkit runs as it stands there."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from robustkit import ThreatModel, evaluate, registry
from robustkit.attacks import EvasionAttack, build
from robustkit.errors import DoesNotFit
from robustkit.threat_models import Access, Budget, Decisions, LpBall

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


def test_the_example_is_registered_and_breaks_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    attack, entries = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    module = ModuleType("my_package.attack")
    monkeypatch.setitem(sys.modules, "my_package", ModuleType("my_package"))
    monkeypatch.setitem(sys.modules, "my_package.attack", module)
    exec(attack, module.__dict__)
    names: dict[str, list[registry.Entry]] = {}
    exec(entries, names)
    monkeypatch.setattr(registry, "_all", lambda: (*registry.BUILTIN, *names["ENTRIES"]))
    # A point whose label hangs on a sum close to zero: one of two corners changes it.
    layer = nn.Linear(1, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0], [0.0]]))
        layer.bias.copy_(torch.tensor([-0.5, 0.0]))
    model = nn.Sequential(nn.Flatten(), layer)
    images = torch.full((4, 1, 1, 1), 0.51)
    threat = ThreatModel(
        name="mine",
        access=Access.DECISION,
        perturbation=LpBall(norm="linf", radius=0.1),
        budget=Budget(queries=100),
    )
    corners = build("corners", {"tries": "20"})
    report = evaluate(model, (images, torch.zeros(4, dtype=torch.int64)), threat, attacks=[corners])
    assert report.attacks[0].name == "corners"
    assert (report.robust_accuracy.value, report.violations) == (0, 0)


def test_an_attack_that_does_not_say_what_it_needs_is_told() -> None:
    class Silent(EvasionAttack[Decisions]):
        """Says nothing."""

        run = None  # type: ignore[assignment]

    threat = ThreatModel(name="mine", perturbation=LpBall(norm="linf", radius=0.1))
    with pytest.raises(DoesNotFit, match="does not say its access and norms"):
        Silent().check(threat)

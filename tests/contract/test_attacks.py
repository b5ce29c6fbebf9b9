"""Every registered attack keeps to the contract, in every norm and on every device."""

from collections.abc import Callable, Iterator

import pytest
import torch

from robustkit import registry
from robustkit.attacks import EvasionAttack, build
from robustkit.threat_models.perturbation import Norm
from tests.contract.checks import CHECKS, Case

# What stands for a name that needs more words, or whose defaults take long: (spec, options).
EXAMPLES: dict[str, tuple[tuple[str, dict[str, str]], ...]] = {
    "cgba": (("cgba", {"queries": "600"}),),
    "hop-skip-jump": (("hop-skip-jump", {"queries": "2500"}),),
    "geoda": (("geoda", {"queries": "1500", "reduction": "1"}),),
    "surfree": (("surfree", {"queries": "1500", "reduction": "1"}),),
    "rays": (("rays", {"queries": "600"}),),
    "cgba-h": (("cgba-h", {"queries": "1000"}),),
    "pgd": (("pgd", {"steps": "10", "restarts": "2"}), ("pgd", {"momentum": "3/4", "loss": "dlr"})),
    "apgd": (
        ("apgd", {"steps": "20"}),
        ("apgd", {"steps": "20", "loss": "dlr", "targets": "2", "wide_start": "true"}),
    ),
    "square": (("square", {"queries": "1000"}),),
    "foolbox": (
        ("foolbox:LinfPGD", {"steps": "5"}),
        ("foolbox:L2DeepFoolAttack", {"steps": "5"}),
    ),
}
# An attack of Foolbox works in fewer norms than the adapter.
FOREIGN_NORMS = {"foolbox:LinfPGD": ("linf",), "foolbox:L2DeepFoolAttack": ("l2",)}
# Minutes of foreign code per norm: in the gate, in one norm, at a radius at which all is over soon.
SLOW = {"autoattack": ("linf", 20.0)}
NAMES = list(registry.entries("attacks"))


def cases() -> Iterator[object]:
    for name in NAMES:
        for spec, options in EXAMPLES.get(name, ((name, {}),)):
            norms = FOREIGN_NORMS.get(spec, registry.find("attacks", name).norms)
            label = "-".join([spec, *options.values()])
            for norm in norms:
                quick, factor = SLOW.get(name, (norm, 1.0))
                if norm == quick:
                    yield pytest.param(spec, options, norm, factor, id=f"{label}-{norm}")
                if name in SLOW:
                    slow = f"{label}-{norm}-slow"
                    yield pytest.param(spec, options, norm, 1.0, id=slow, marks=pytest.mark.slow)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: str(check.__name__))
@pytest.mark.parametrize(("spec", "options", "norm", "factor"), list(cases()))
def test_attacks_keep_to_the_contract(
    spec: str,
    options: dict[str, str],
    norm: Norm,
    factor: float,
    check: Callable[[Case], None],
    device: torch.device,
) -> None:
    attack = build(spec, options)
    check(Case(attack=attack, norm=norm, device=device, factor=factor))


@pytest.mark.parametrize("name", NAMES)
def test_a_registered_line_says_what_the_class_says(name: str) -> None:
    entry = registry.find("attacks", name)
    kind = entry.load()
    assert issubclass(kind, EvasionAttack)
    assert str(kind.access) == entry.access
    assert set(entry.norms) == kind.norms
    assert set(entry.goals) == kind.goals
    assert kind.__doc__
    assert "Reference:" in kind.__doc__

"""Reports for tests: a plain one, and one whose every string comes from an enemy."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast

import torch

from robustkit.report import (
    About,
    Accuracies,
    AttackRow,
    Control,
    Cost,
    Curves,
    DataFacts,
    Draws,
    Effort,
    Environment,
    EpsPoint,
    EvasionReport,
    ExampleRow,
    Flag,
    Headline,
    ModelFacts,
    NearestKnown,
    PassesPoint,
    PerturbationFacts,
    Picture,
    QueriesPoint,
    Skipped,
    ThreatFacts,
)
from robustkit.statistics import wilson

T = TypeVar("T")

HOSTILE = "<script>alert('x')</script>\"'&[red]{{ 7*7 }}[/] \x1b[31m\x1b]0;t\x07\u202e\n%s\x9b"


def evasion() -> EvasionReport:
    """Ten examples: four robust, four broken, two misclassified."""
    statuses = ["robust"] * 4 + ["broken"] * 4 + ["misclassified"] * 2
    examples = tuple(
        ExampleRow(
            id=place,
            label=place,
            clean_label=place if status != "misclassified" else 0,
            status=status,  # type: ignore[arg-type]
            attack="pgd" if status == "broken" else None,
            distance=0.03 if status == "broken" else None,
            queries=40 if status == "broken" else None,
        )
        for place, status in enumerate(statuses)
    )
    robust = wilson(4, 10)
    return EvasionReport(
        command="robustkit evaluate --threat linf",
        threat=ThreatFacts(
            name="linf",
            stage="inference",
            goal="untargeted",
            access="gradient",
            perturbation=PerturbationFacts(
                norm="linf", radius=8 / 255, low=0.0, high=1.0, options={}
            ),
            queries=None,
            poison_rate=None,
            may_relabel=False,
        ),
        model=ModelFacts(spec="builtin:net", sha256="ab" * 32, parameters=11173962, classes=10),
        data=DataFacts(spec="samples:ten", split="test", n=10, classes=10, sha256="cd" * 32),
        about=About(),
        seed=0,
        environment=Environment(
            python="3.11.7",
            platform="Linux",
            packages={"torch": "2.4.0"},
            device="cpu",
            device_name="x86_64",
            dtype="float32",
            width=10,
            threads=1,
            reproducible=True,
        ),
        verdict=Headline(
            metric="robust_accuracy",
            value=robust.value,
            low=robust.low,
            high=robust.high,
            n=10,
            worse="lower",
        ),
        controls=(),
        flags=(Flag(id="few-examples", severity="warn", message="Only 10 examples were used."),),
        cost=Cost(forward=1234, backward=800, rows_run=1300, seconds=12.5),
        diagnostics={"guards": {"deterministic": True}},
        clean_accuracy=wilson(8, 10),
        robust_accuracy=robust,
        accuracies=Accuracies(direct=robust, surrogate=None, worst=robust),
        violations=0,
        attacks=(
            AttackRow(
                name="fgsm",
                options={"loss": "ce"},
                through="direct",
                examples_in=8,
                broken=1,
                violations=0,
                forward=8,
                backward=8,
                queries=8,
                seconds=0.1,
            ),
            AttackRow(
                name="pgd",
                options={"steps": 20, "restarts": 5, "step_size": None},
                through="direct",
                examples_in=7,
                broken=3,
                violations=0,
                forward=1216,
                backward=792,
                queries=1216,
                seconds=11.9,
            ),
        ),
        skipped=(
            Skipped(name="square", reason="not in plan"),
            Skipped(name="cgba", reason="not in plan"),
            Skipped(name="step-ll", reason="It pursues its own target."),
        ),
        examples=examples,
    )


def full() -> EvasionReport:
    """As `evasion`, with every field that may be left empty filled in."""
    report = evasion()
    share = wilson(4, 10)
    return replace(
        report,
        about=About(
            name="Net",
            paper="A paper. A conference 2020.",
            architecture="ResNet-18",
            training_data="CIFAR-10",
            extra_data=False,
        ),
        controls=(
            Control(
                name="undefended net",
                metric="robust_accuracy",
                value=0.0,
                low=0.0,
                high=0.28,
                message="The attacks break what should break.",
            ),
        ),
        accuracies=Accuracies(direct=share, surrogate=share, worst=share),
        draws=Draws(count=20, mean=share, majority=share, all=share),
        curves=Curves(
            passes=(PassesPoint(passes=10.0, robust=0.5),),
            effort=Effort(passes=40, broken=1, more_at_most=4.74),
            eps=(EpsPoint(eps=0.01, robust=0.7),),
            queries=(
                QueriesPoint(
                    queries=100, median=1.5, q25=0.5, q75=None, success=0.2, times_nearest=2.5
                ),
            ),
            nearest=NearestKnown(median=0.75, q25=0.5, q75=None),
        ),
    )


def hostile() -> EvasionReport:
    """As `full`, with every free string replaced by one that tries to break out."""
    return _poisoned(full(), lambda text: HOSTILE + text)


_FIXED = {
    "through",
    "metric",
    "scenario",
    "severity",
    "status",
    "stage",
    "access",
    "worse",
    "robustkit",
}


def _poisoned(value: T, poison: Callable[[str], str]) -> T:
    changed: Any = value
    if isinstance(value, str):
        changed = poison(value)
    elif isinstance(value, dict):
        changed = {poison(key): _poisoned(item, poison) for key, item in value.items()}
    elif isinstance(value, tuple):
        changed = tuple(_poisoned(item, poison) for item in value)
    elif is_dataclass(value) and not isinstance(value, type):
        parts = {
            field.name: _poisoned(getattr(value, field.name), poison)
            for field in fields(value)
            if field.name not in _FIXED
        }
        changed = replace(value, **parts)
    return cast("T", changed)


def picture(*, channels: int = 3, size: int = 8, name: str = "cat") -> Picture:
    """A square that becomes brighter in one corner."""
    clean = torch.full((channels, size, size), 0.25)
    changed = clean.clone()
    changed[:, 0, 0] += 0.125
    return Picture(
        id=4,
        label_name=name,
        answer_name="dog",
        attack="pgd",
        distance=0.125,
        clean=clean,
        changed=changed,
    )

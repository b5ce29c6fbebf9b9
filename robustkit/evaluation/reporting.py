"""From a finished evaluation to its report."""

from collections.abc import Sequence

import torch

from robustkit.data import LabelledImages
from robustkit.evaluation.guards import Inspection
from robustkit.evaluation.plans import Plan
from robustkit.evaluation.summary import Tally, attack_flags
from robustkit.report import (
    About,
    Accuracies,
    Curves,
    DataFacts,
    EvasionReport,
    Flag,
    Headline,
    ModelFacts,
    Skipped,
    ThreatFacts,
    current_environment,
)
from robustkit.threat_models import ThreatModel


def report_of(
    model: ModelFacts,
    data: LabelledImages,
    threat: ThreatModel,
    plan: Plan,
    skipped: Sequence[Skipped],
    found: Inspection,
    result: Tally,
    curves: Curves,
    seed: int,
    device: torch.device,
    about: About | None,
    command: str | None,
) -> EvasionReport:
    """The report of an evaluation that has run to its end."""
    robust = result.robust
    flags: list[Flag] = [*found.flags, *attack_flags(plan, threat.goal, found.classes, result)]
    return EvasionReport(
        command=command,
        threat=ThreatFacts.of(threat),
        model=model,
        data=DataFacts(
            spec=data.spec,
            split=data.split,
            n=len(data),
            classes=data.classes,
            sha256=data.sha256,
        ),
        about=about or About(),
        seed=seed,
        environment=current_environment(
            device, dtype=torch.float32, width=found.width, reproducible=found.reproducible
        ),
        verdict=Headline(
            metric="robust_accuracy",
            value=robust.value,
            low=robust.low,
            high=robust.high,
            n=len(data),
            worse="lower",
        ),
        controls=(),
        flags=tuple(flags),
        cost=result.cost,
        diagnostics={
            "guards": {"forward": found.passes.forward, "backward": found.passes.backward}
        },
        clean_accuracy=result.clean,
        robust_accuracy=robust,
        accuracies=Accuracies(direct=robust, surrogate=None, worst=robust),
        violations=result.violations,
        attacks=result.attacks,
        skipped=tuple(skipped),
        curves=curves,
        examples=result.examples,
    )

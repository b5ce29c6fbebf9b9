"""From a finished evaluation to its report."""

from collections.abc import Sequence

import torch

from robustkit.data import LabelledImages
from robustkit.evaluation.flags_attacks import attack_flags
from robustkit.evaluation.flags_diagnosis import Diagnosis
from robustkit.evaluation.flags_verdict import sanity_flags
from robustkit.evaluation.guards import Inspection
from robustkit.evaluation.nearest import WhiteBox
from robustkit.evaluation.plans import Plan
from robustkit.evaluation.summary import Tally
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
    diagnosis: Diagnosis,
    result: Tally,
    curves: Curves,
    found_by: WhiteBox | None,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    about: About | None,
    command: str | None,
) -> EvasionReport:
    """The report of an evaluation that has run to its end."""
    scores = result.scores
    robust = scores.worst
    flags: list[Flag] = [
        *sanity_flags(
            plan=plan,
            rows=result.attacks,
            robust=robust,
            total=len(data),
            measured=(*found.flags, *diagnosis.flags),
            violations=result.violations,
            violators=[row.name for row in (*result.attacks, *result.references) if row.violations],
            tally=scores.tally,
            draws=scores.draws,
        ),
        *attack_flags(plan, threat, found.classes, result, over_queries=curves.queries is not None),
    ]
    return EvasionReport(
        command=command,
        threat=ThreatFacts.of(threat),
        model=model,
        data=DataFacts.of(data),
        about=about or About(),
        seed=seed,
        environment=current_environment(
            device, dtype=dtype, width=found.width, reproducible=found.reproducible
        ),
        verdict=Headline.accuracy("robust_accuracy", robust, len(data)),
        controls=(),
        flags=tuple(flags),
        cost=result.cost,
        diagnostics={
            "guards": {"forward": found.passes.forward, "backward": found.passes.backward},
            "flags": diagnosis.table(),
            **_references(result),
            **({} if found_by is None else {"white_box": found_by.table()}),
        },
        clean_accuracy=scores.clean,
        robust_accuracy=robust,
        accuracies=Accuracies(direct=scores.direct, surrogate=scores.surrogate, worst=robust),
        violations=result.violations,
        attacks=result.attacks,
        skipped=tuple(skipped),
        draws=scores.draws,
        curves=curves,
        examples=result.examples,
    )


def _references(result: Tally) -> dict[str, object]:
    """What references did, apart from the attacks."""
    if not result.references:
        return {}
    return {
        "reference": [
            {
                "name": row.name,
                "options": dict(row.options),
                "examples_in": row.examples_in,
                "broken": row.broken,
                "violations": row.violations,
                "forward": row.forward,
                "backward": row.backward,
                "seconds": row.seconds,
            }
            for row in result.references
        ]
    }

"""Looking, after the plan has run, for signs that its attacks cannot be believed."""

from dataclasses import dataclass
from pathlib import Path

from robustkit.errors import DoesNotFit
from robustkit.evaluation import flags, flags_surface
from robustkit.evaluation.engine import Engine
from robustkit.evaluation.flags_probes import (
    Probe,
    black_box,
    climbs,
    gradients,
    huge_radius,
    single_step,
    twice_the_steps,
)
from robustkit.evaluation.flags_sample import Measurement, Site
from robustkit.evaluation.guards import Inspection
from robustkit.evaluation.keeping import measured_once
from robustkit.evaluation.plans import Plan
from robustkit.evaluation.summary import Standing
from robustkit.report import Flag
from robustkit.report.codec import encode
from robustkit.threat_models import Access, Untargeted
from robustkit.threat_models.answering import most

FILE = "diagnostics.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """What was measured after the plan, and the flags it raised.

    Attributes:
        flags: The flags.
        measurements: What was measured, those included that raised nothing or were left out.
    """

    flags: tuple[Flag, ...] = ()
    measurements: tuple[Measurement, ...] = ()

    def table(self) -> dict[str, object]:
        """The measurements and their cost, for the report."""
        return {
            "forward": sum(row.forward for row in self.measurements),
            "backward": sum(row.backward for row in self.measurements),
            "rows_run": sum(row.rows_run for row in self.measurements),
            "measurements": [encode(row) for row in self.measurements],
        }


def diagnose(
    engine: Engine,
    plan: Plan,
    standing: Standing,
    found: Inspection,
    *,
    folder: Path | None = None,
) -> Diagnosis:
    """Measure, on the hardest examples that stand, whether the attacks can be believed.

    All measurements together take fewer passes than the run itself; one that does not fit is left
    out and says so. They are the same for the same records, whatever the order of the examples.

    Args:
        engine: A run whose plan is complete.
        plan: What was run.
        standing: Its examples; has taken in nothing but the clean pass.
        found: What the checks before the run have found.
        folder: Where the result is kept, and taken from if it is there.
    """
    return measured_once(
        folder,
        FILE,
        Diagnosis,
        lambda: _measured(Site(engine, plan, standing, found)),
    )


def _measured(site: Site) -> Diagnosis:
    raised = _clean_answers(site)
    measurements: list[Measurement] = []
    probes: dict[str, Probe] = {
        "F3,F4": gradients,
        "F9": single_step,
        "F8": huge_radius,
        "F5": black_box,
        "F7": twice_the_steps,
        "loss-not-rising,step-size": climbs,
    }
    reason = _no_use(site)
    if reason is None:
        raised += _blind(site)
    site.engine.progress.stage("sanity flags", len(probes), 0)
    for name, probe in probes.items():
        left_out = reason
        if left_out is None:
            try:
                found, measurement = probe(site)
            except DoesNotFit as error:
                left_out = str(error)
            else:
                raised += [flag for flag in found if flag is not None]
                measurements.append(measurement)
        if left_out is not None:
            measurements.append(Measurement(flag=name, measured=f"not measured: {left_out}"))
        site.engine.progress.advance(1, 0)
    return Diagnosis(flags=tuple(raised), measurements=tuple(measurements))


def _clean_answers(site: Site) -> list[Flag]:
    """What the leads of the clean pass tell, for which nothing has to be asked again."""
    if not isinstance(site.engine.threat.goal, Untargeted):
        return []
    found = (
        flags.top_ties(sum(lead == 0 for lead in site.leads), site.total),
        flags_surface.saturated(site.leads, site.classes),
    )
    return [flag for flag in found if flag is not None]


def _blind(site: Site) -> list[Flag]:
    """F3 from the checks before the run: what has fallen all the same misled nobody."""
    seen = site.hardest[site.hardest < len(site.blind)]
    flag = flags.dead_gradients(
        int(site.blind[seen].sum()), None, len(seen), "clean images that stand"
    )
    return [] if flag is None else [flag]


def _no_use(site: Site) -> str | None:
    """Why nothing is measured at all, if so."""
    if site.engine.threat.access < Access.GRADIENT or most(site.engine.model) < Access.GRADIENT:
        return "the adversary sees no gradients, which is what is in doubt."
    if not len(site.hardest):
        return "no example stands, so that the accuracy cannot be too high."
    return None

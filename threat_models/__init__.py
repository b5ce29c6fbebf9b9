"""Threat models: who the adversary is, when it acts, what it sees, may change and spend."""

from typing import TYPE_CHECKING

from robustkit.lazy import exports

# A public name is written twice: below for type checkers (`from x import Name as Name`), and in
# the table for Python, which imports it on first use.
if TYPE_CHECKING:
    from robustkit.threat_models.access import Access as Access
    from robustkit.threat_models.answering import answer as answer
    from robustkit.threat_models.convolutions import Convolutions as Convolutions
    from robustkit.threat_models.goal import NO_NUMBER as NO_NUMBER
    from robustkit.threat_models.goal import REFUSED as REFUSED
    from robustkit.threat_models.goal import Availability as Availability
    from robustkit.threat_models.goal import Backdoor as Backdoor
    from robustkit.threat_models.goal import Extraction as Extraction
    from robustkit.threat_models.goal import Goal as Goal
    from robustkit.threat_models.goal import Objective as Objective
    from robustkit.threat_models.goal import Output as Output
    from robustkit.threat_models.goal import Targeted as Targeted
    from robustkit.threat_models.goal import Untargeted as Untargeted
    from robustkit.threat_models.goal import objective as objective
    from robustkit.threat_models.goal import parse_goal as parse_goal
    from robustkit.threat_models.meter import Meter as Meter
    from robustkit.threat_models.model import Budget as Budget
    from robustkit.threat_models.model import Stage as Stage
    from robustkit.threat_models.model import ThreatModel as ThreatModel
    from robustkit.threat_models.model import Verdict as Verdict
    from robustkit.threat_models.model import parse_radius as parse_radius
    from robustkit.threat_models.perturbation import LpBall as LpBall
    from robustkit.threat_models.perturbation import Patch as Patch
    from robustkit.threat_models.perturbation import PerturbationSet as PerturbationSet
    from robustkit.threat_models.presets import load as load
    from robustkit.threat_models.trace import CurvePoint as CurvePoint
    from robustkit.threat_models.trace import DistancePoint as DistancePoint
    from robustkit.threat_models.trace import Trace as Trace
    from robustkit.threat_models.trace import curve as curve
    from robustkit.threat_models.trace import distance_curve as distance_curve
    from robustkit.threat_models.views import Decisions as Decisions
    from robustkit.threat_models.views import Gradients as Gradients
    from robustkit.threat_models.views import Scores as Scores
    from robustkit.threat_models.views import grant as grant
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "Access": "access",
            "Decisions": "views",
            "Gradients": "views",
            "Meter": "meter",
            "Scores": "views",
            "answer": "answering",
            "grant": "views",
            "Convolutions": "convolutions",
            "Availability": "goal",
            "Backdoor": "goal",
            "Extraction": "goal",
            "Goal": "goal",
            "Objective": "goal",
            "NO_NUMBER": "goal",
            "REFUSED": "goal",
            "Output": "goal",
            "Targeted": "goal",
            "Untargeted": "goal",
            "objective": "goal",
            "parse_goal": "goal",
            "Budget": "model",
            "Stage": "model",
            "ThreatModel": "model",
            "Verdict": "model",
            "parse_radius": "model",
            "LpBall": "perturbation",
            "Patch": "perturbation",
            "PerturbationSet": "perturbation",
            "load": "presets",
            "CurvePoint": "trace",
            "DistancePoint": "trace",
            "Trace": "trace",
            "curve": "trace",
            "distance_curve": "trace",
        },
    )

"""Reports: what was measured, as dataclasses, JSON, a terminal's table and a page."""

from typing import TYPE_CHECKING

from robustkit.lazy import exports

# A public name is written twice: below for type checkers (`from x import Name as Name`), and in
# the table for Python, which imports it on first use.
if TYPE_CHECKING:
    from robustkit.report.base import Report as Report
    from robustkit.report.base import read as read
    from robustkit.report.base import schema as schema
    from robustkit.report.base import write as write
    from robustkit.report.console import show as show
    from robustkit.report.corruptions import CorruptedExample as CorruptedExample
    from robustkit.report.corruptions import CorruptionRow as CorruptionRow
    from robustkit.report.corruptions import CorruptionsReport as CorruptionsReport
    from robustkit.report.corruptions import MeanCorruptionError as MeanCorruptionError
    from robustkit.report.environment import current_environment as current_environment
    from robustkit.report.evasion import Accuracies as Accuracies
    from robustkit.report.evasion import AttackRow as AttackRow
    from robustkit.report.evasion import Curves as Curves
    from robustkit.report.evasion import DistancePoint as DistancePoint
    from robustkit.report.evasion import Draws as Draws
    from robustkit.report.evasion import Effort as Effort
    from robustkit.report.evasion import EpsPoint as EpsPoint
    from robustkit.report.evasion import EvasionReport as EvasionReport
    from robustkit.report.evasion import ExampleRow as ExampleRow
    from robustkit.report.evasion import NearestKnown as NearestKnown
    from robustkit.report.evasion import PassesPoint as PassesPoint
    from robustkit.report.evasion import QueriesPoint as QueriesPoint
    from robustkit.report.evasion import Skipped as Skipped
    from robustkit.report.grid import Corrupted as Corrupted
    from robustkit.report.html import render as render
    from robustkit.report.html import write_html as write_html
    from robustkit.report.parts import About as About
    from robustkit.report.parts import Control as Control
    from robustkit.report.parts import Cost as Cost
    from robustkit.report.parts import DataFacts as DataFacts
    from robustkit.report.parts import Environment as Environment
    from robustkit.report.parts import Flag as Flag
    from robustkit.report.parts import Headline as Headline
    from robustkit.report.parts import ModelFacts as ModelFacts
    from robustkit.report.parts import PerturbationFacts as PerturbationFacts
    from robustkit.report.parts import ThreatFacts as ThreatFacts
    from robustkit.report.parts import read_about as read_about
    from robustkit.report.pictures import Picture as Picture
    from robustkit.report.unlearnable import BestLearner as BestLearner
    from robustkit.report.unlearnable import Distortion as Distortion
    from robustkit.report.unlearnable import LearnerRow as LearnerRow
    from robustkit.report.unlearnable import PartialRow as PartialRow
    from robustkit.report.unlearnable import Publication as Publication
    from robustkit.report.unlearnable import Spread as Spread
    from robustkit.report.unlearnable import UnlearnableReport as UnlearnableReport
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "show": "console",
            "CorruptedExample": "corruptions",
            "CorruptionRow": "corruptions",
            "CorruptionsReport": "corruptions",
            "MeanCorruptionError": "corruptions",
            "current_environment": "environment",
            "Accuracies": "evasion",
            "AttackRow": "evasion",
            "Curves": "evasion",
            "DistancePoint": "evasion",
            "Draws": "evasion",
            "Effort": "evasion",
            "EpsPoint": "evasion",
            "EvasionReport": "evasion",
            "ExampleRow": "evasion",
            "NearestKnown": "evasion",
            "PassesPoint": "evasion",
            "QueriesPoint": "evasion",
            "Skipped": "evasion",
            "Corrupted": "grid",
            "render": "html",
            "write_html": "html",
            "About": "parts",
            "Control": "parts",
            "Cost": "parts",
            "DataFacts": "parts",
            "Environment": "parts",
            "Flag": "parts",
            "Headline": "parts",
            "ModelFacts": "parts",
            "PerturbationFacts": "parts",
            "ThreatFacts": "parts",
            "read_about": "parts",
            "Picture": "pictures",
            "BestLearner": "unlearnable",
            "Distortion": "unlearnable",
            "LearnerRow": "unlearnable",
            "PartialRow": "unlearnable",
            "Publication": "unlearnable",
            "Spread": "unlearnable",
            "UnlearnableReport": "unlearnable",
            "Report": "base",
            "read": "base",
            "schema": "base",
            "write": "base",
        },
    )

"""A report as one self-contained page: no scripts, nothing from elsewhere."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from robustkit.errors import BadInput
from robustkit.files import write_atomically
from robustkit.report import scales, words
from robustkit.report.base import Report
from robustkit.report.battery import bars, explained, facts, points
from robustkit.report.charts import charts
from robustkit.report.corruptions import CorruptionsReport
from robustkit.report.evasion import EvasionReport
from robustkit.report.grid import Corrupted, heat_map, shown
from robustkit.report.pictures import Picture, data_uri, difference
from robustkit.report.unlearnable import UnlearnableReport

MOST_PICTURES = 20

# In the order in which the bar of outcomes shows them.
_OUTCOMES = {
    "robust": "robust",
    "not_started": "not started",
    "violation": "violation",
    "broken": "broken",
    "misclassified": "misclassified",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Gauge:
    """A share with its interval, to be drawn on a scale from 0 to 1."""

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Outcome:
    """One part of the bar of outcomes."""

    status: str
    name: str
    count: int
    start: float
    share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Card:
    """One picture of the gallery, ready to be shown."""

    picture: Picture
    images: tuple[tuple[str, str], ...]
    factor: str
    small: bool


def render(
    report: Report, pictures: Sequence[Picture] = (), corrupted: Sequence[Corrupted] = ()
) -> str:
    """The page of a report.

    Every string in it is escaped, whatever a model's or a file's name holds; the page's own policy
    forbids scripts and anything from outside.

    Args:
        report: What to show.
        pictures: Broken examples; the first 20 are shown.
        corrupted: Corrupted images, for a report about them.

    Raises:
        BadInput: A picture's two images have different shapes, or are no (C, H, W).
    """
    style = "".join(resource(f"{part}.css.jinja") for part in ("page", "curves", "battery"))
    environment = page_environment()
    evasion = isinstance(report, EvasionReport)
    return environment.from_string(resource("page.html.jinja")).render(
        report=report,
        evasion=evasion,
        subject=words.subject(report),
        section=_section(environment, report, corrupted),
        style=Markup(style),
        policy=policy(style),
        gauges=_gauges(report),
        outcomes=_outcomes(report) if isinstance(report, EvasionReport) else (),
        curves=_curves(report, environment) if isinstance(report, EvasionReport) else "",
        void=words.invalid(report),
        cards=[_card(picture) for picture in pictures[:MOST_PICTURES]],
        more=max(0, len(pictures) - MOST_PICTURES),
        words=words,
    )


def _section(environment: Environment, report: Report, corrupted: Sequence[Corrupted]) -> Markup:
    """What the page of one scenario has and those of others have not."""
    # The templates escape every value.
    if isinstance(report, CorruptionsReport):
        template = environment.from_string(resource("grid.html.jinja"))
        return Markup(template.render(report=report, map=heat_map(report), images=shown(corrupted)))
    if isinstance(report, UnlearnableReport):
        template = environment.from_string(resource("battery.html.jinja"))
        return Markup(
            template.render(
                report=report,
                bars=bars(report),
                explained=explained(report),
                facts=facts(report),
                points=points,
                words=words,
            )
        )
    return Markup()


def write_html(
    report: Report,
    path: Path,
    pictures: Sequence[Picture] = (),
    corrupted: Sequence[Corrupted] = (),
) -> None:
    """Write the page of a report, whole or not at all.

    Args:
        report: What to show.
        path: Where to.
        pictures: As in `render`.
        corrupted: As in `render`.

    Raises:
        BadInput: As `render`, or writing there is not allowed.
        CannotWrite: The disk is full or failed.
    """
    write_atomically(path, render(report, pictures, corrupted))


def page_environment() -> Environment:
    """Renders templates; every value is escaped, whatever it holds."""
    # `finalize` sees every value before it is escaped.
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters.update(_FILTERS)
    return environment


def policy(style: str) -> str:
    """What a page may load: its own style sheet and images that it carries, nothing else."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'"
    )


def resource(name: str) -> str:
    """A template or style sheet of this package."""
    return files("robustkit.report").joinpath(name).read_text(encoding="utf-8")


def _finalize(value: object) -> object:
    """Strings lose what could steer a reader's eye: control and direction characters."""
    return words.printable(value) if type(value) is str else value


_FILTERS: dict[str, Callable[..., str]] = {
    "percent": words.percent,
    "seconds": words.seconds,
    "metric": words.metric,
    "number": words.number,
    "options": words.options,
    "count": "{:,}".format,
    "at": "{:.2f}".format,
    "hundredfold": lambda share: f"{100 * share:.1f}",
}


def _gauges(report: Report) -> list[_Gauge]:
    """Shares only: another metric has no place on a scale from 0 to 1."""
    found = [
        _Gauge(name=name, value=value, low=low, high=high)
        for name, value, low, high in words.shares(report)
    ]
    return [gauge for gauge in found if gauge.low >= 0 and gauge.high <= 1]


def _outcomes(report: EvasionReport) -> list[_Outcome]:
    statuses = [example.status for example in report.examples]
    parts = []
    start = 0.0
    for status, name in _OUTCOMES.items():
        count = statuses.count(status)  # type: ignore[arg-type]
        share = count / max(len(statuses), 1)
        if count:
            parts.append(
                _Outcome(
                    status=status, name=name, count=count, start=100 * start, share=100 * share
                )
            )
        start += share
    return parts


def _curves(report: EvasionReport, environment: Environment) -> Markup:
    """The section that shows the curves; empty without curves."""
    shown = charts(report)
    if not shown:
        return Markup()
    # What a template has rendered is escaped already.
    template = environment.from_string(resource("curves.html.jinja"))
    return Markup(template.render(charts=shown, scales=scales))


def _card(picture: Picture) -> _Card:
    clean, changed = picture.clean, picture.changed
    if clean.ndim != 3 or clean.shape != changed.shape or clean.numel() == 0:
        raise BadInput(
            f"The images of example {picture.id} have the shapes {tuple(clean.shape)} and "
            f"{tuple(changed.shape)}; both must be the same (C, H, W)."
        )
    shown, factor = difference(clean, changed)
    images = (
        ("Original", data_uri(clean)),
        ("Changed", data_uri(changed)),
        ("Difference", data_uri(shown)),
    )
    return _Card(
        picture=picture,
        images=images,
        factor=f"{factor:.0f}" if factor >= 10 else f"{factor:.1f}",
        small=max(clean.shape[1:]) <= 128,
    )

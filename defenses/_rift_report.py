"""What RiFT found and chose, as JSON and as a picture."""

import dataclasses
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from robustkit.defenses._criticality import Criticality
from robustkit.defenses._interpolation import Point
from robustkit.files import write_atomically
from robustkit.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A fine-tuning that moves a tensor by less than this share of its length can hardly show.
_FAINT = 0.02

NOTE = (
    "MRC is a lower bound on images crafted once; it ranks tensors and guarantees nothing. "
    "Held-out figures chose alpha; only test images give a verdict."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RiFTReport:
    """Why these weights, and how far.

    Attributes:
        modules: The modules whose weights were fine-tuned.
        chosen_by: `criticality`, or `name` where the caller chose.
        alpha: How far the model went from its old weights, 0, to the fine-tuned ones, 1. At 0 it is
            what it was: no step was both safe and a gain.
        displacement: How far fine-tuning moved each tensor, relative to its Euclidean length.
        criticality: All tensors, the least critical first.
        curve: Held-out accuracy on the way, from 0 to 1.
        epochs: Of fine-tuning.
        settings: RiFT's hyper-parameters.
        threat: The adversary.
        data: The training images, held-out ones included.
    """

    modules: tuple[str, ...]
    chosen_by: Literal["criticality", "name"]
    alpha: float
    displacement: Mapping[str, float]
    criticality: tuple[Criticality, ...]
    curve: tuple[Point, ...]
    epochs: int
    settings: Mapping[str, Any]
    threat: Mapping[str, Any]
    data: Mapping[str, Any]

    @property
    def chosen(self) -> Point:
        """The place that was chosen on the curve."""
        return next(point for point in self.curve if point.alpha == self.alpha)

    @property
    def proven(self) -> bool:
        """Whether the interval around the held-out clean gain lies above zero."""
        return self.chosen.clean_gain.low > 0

    @property
    def verdict(self) -> str:
        """What became of the model, in one sentence."""
        names = ", ".join(self.modules)
        if not self.alpha:
            return f"unchanged: fine-tuning {names} was nowhere both safe and a gain."
        point = self.chosen
        proven = "" if self.proven else " (within what chance can do)"
        return (
            f"{names} at alpha {self.alpha:g}: held-out clean accuracy "
            f"{100 * point.clean_gain.value:+.2f} points{proven}, robust accuracy "
            f"{100 * point.robust_gain.value:+.2f}."
        )

    @property
    def advice(self) -> str | None:
        """What to do about a fine-tuning that can hardly show; None where it can."""
        if max(self.displacement.values()) >= _FAINT:
            return None
        far = ", ".join(f"{name} by {way:.2%}" for name, way in self.displacement.items())
        return f"Fine-tuning moved {far} of its length: hardly enough to show. Raise its rate."

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        found: dict[str, Any] = _plain(fields)
        return {"note": NOTE, "proven": self.proven, **found}

    def summary(self) -> dict[str, Any]:
        """What a saved model should know of it, ready for JSON."""
        return {
            "name": "rift",
            "modules": list(self.modules),
            "alpha": self.alpha,
            "epochs": self.epochs,
            "settings": _plain(self.settings),
            "threat": _plain(self.threat),
            "data": _plain(self.data),
        }

    def to_json(self) -> str:
        """As `rift.json` has it."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    def write(self, folder: Path) -> None:
        """Write `rift.json` and `rift.png`, the ranking and the curve as a picture.

        Raises:
            BadInput, CannotWrite: See `write_atomically`.
        """
        write_atomically(folder / "rift.json", self.to_json())
        write_atomically(folder / "rift.png", self.picture())

    def picture(self) -> bytes:
        """A PNG: criticality per tensor beside accuracy along the way."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        height = max(4.0, 1.5 + 0.25 * len(self.criticality))
        figure = Figure(figsize=(11, height), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        self._draw_criticality(left)
        self._draw_curve(right)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=120, metadata={"Software": None})
        return stream.getvalue()

    def _draw_criticality(self, axes: "Axes") -> None:
        names = [f"{one.module}{' (stem)' if one.stem else ''}" for one in self.criticality]
        colours = [
            "tab:orange" if one.module in self.modules else "tab:blue" for one in self.criticality
        ]
        bars = axes.barh(names, [one.mrc for one in self.criticality], color=colours)
        drops = [f"{-100 * one.accuracy_drop:+.1f}" for one in self.criticality]
        axes.bar_label(bars, drops, padding=3, fontsize="small")
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set_xlabel("rise of the loss (labels: robust accuracy, points)")
        axes.set_title("Criticality of each tensor; orange: fine-tuned")

    def _draw_curve(self, axes: "Axes") -> None:
        alphas = [point.alpha for point in self.curve]
        for name, marker, aside in (("clean", "o", -0.004), ("robust", "s", 0.004)):
            gains: list[Interval] = [getattr(point, f"{name}_gain") for point in self.curve]
            values = [100 * gain.value for gain in gains]
            ends = (
                [100 * (gain.value - gain.low) for gain in gains],
                [100 * (gain.high - gain.value) for gain in gains],
            )
            base = 100 * getattr(self.curve[0], name).value
            label = f"{name} (at 0: {base:.1f} %)"
            axes.errorbar(
                [alpha + aside for alpha in alphas],
                values,
                yerr=ends,
                marker=marker,
                capsize=3,
                label=label,
            )
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.axvline(self.alpha, color="black", linestyle="--", label=f"alpha {self.alpha:g}")
        axes.set_xlabel("alpha: old weights 0, fine-tuned weights 1")
        axes.set_ylabel("change of held-out accuracy, points")
        axes.set_title("The way from old to fine-tuned weights")
        axes.legend()


def _plain(value: object) -> Any:  # noqa: ANN401 - JSON
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _plain(fields)
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value

"""From values to places in a picture, and the ticks of an axis."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

# The picture, and the part of it in which curves are drawn.
WIDTH, HEIGHT = 400, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 380, 14, 208

# Units that a label along the horizontal axis takes.
_ROOM = 38
_FACTORS = (1, 2, 2.5, 5, 10)


def short(value: float) -> str:
    """A number in few characters.

    Example:
        >>> [short(value) for value in (0.03137, 1, 250, 20_000, 1_500_000)]
        ['0.0314', '1', '250', '20,000', '1.5M']
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= max(size, 1e5):
            return f"{value / size:.4g}{unit}"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """A mark on an axis.

    Attributes:
        at: Where, in units of the picture.
        label: What it says.
    """

    at: float
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """An axis; values beyond its ends lie on them.

    Attributes:
        low: Value at its start.
        high: Value at its end.
        start: Place of its start, in units of the picture.
        end: Place of its end.
        factors: Whether equal factors, from 1 on, are equally far apart, and not equal differences.
    """

    low: float
    high: float
    start: float = LEFT
    end: float = RIGHT
    factors: bool = False

    @classmethod
    def from_zero(
        cls, values: Sequence[float], *, start: float = LEFT, end: float = RIGHT
    ) -> "Scale":
        """An axis from 0 to a little more than the largest value."""
        high = 1.05 * max((value for value in values if math.isfinite(value)), default=0.0)
        return cls(low=0.0, high=high or 1.0, start=start, end=end)

    @classmethod
    def growing(cls, values: Sequence[float]) -> "Scale":
        """An axis for values that grow by factors, one at least."""
        low, high = min(values), max(values)
        if low == high:
            low, high = low / 2, max(2 * high, 1.0)
        return cls(low=low, high=high, factors=True)

    def __call__(self, value: float) -> float:
        """The place of a value."""
        low, high, there = map(
            math.log1p if self.factors else float,
            (self.low, self.high, min(max(value, self.low), self.high)),
        )
        return self.start + (there - low) / (high - low) * (self.end - self.start)

    def inside(self, value: float | None) -> float | None:
        """The place of a value; None if it is none or lies beyond the axis."""
        return None if value is None or not self.low <= value <= self.high else self(value)

    def ticks(self, write: Callable[[float], str] = short) -> tuple[Tick, ...]:
        """Ticks at round values, as far as their labels find room."""
        wanted = _decades(self.high) if self.factors else _round(self.low, self.high)
        return self._fitting(wanted, write)

    def ticks_at(self, values: Iterable[float]) -> tuple[Tick, ...]:
        """Ticks at these values, the largest first, as far as their labels find room."""
        return self._fitting(sorted(values, reverse=True), short)

    def _fitting(self, values: Iterable[float], write: Callable[[float], str]) -> tuple[Tick, ...]:
        room = _ROOM if self.start < self.end else 0
        kept: list[Tick] = []
        for value in values:
            place = self.inside(value)
            if place is not None and all(abs(place - tick.at) >= room for tick in kept):
                kept.append(Tick(at=place, label=write(value)))
        return tuple(sorted(kept, key=lambda tick: tick.at))


# Shares, upward.
SHARES = Scale(low=0.0, high=1.0, start=BOTTOM, end=TOP)


def _round(low: float, high: float) -> list[float]:
    """Some four to six round values between two others."""
    rough = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(rough))
    step = min(_FACTORS, key=lambda factor: abs(factor * size - rough)) * size
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [step * count for count in range(first, last + 1)]


def _decades(high: float) -> list[float]:
    """Zero and powers of ten up to a value, then what lies between: the more important first."""
    powers = [10.0**power for power in range(math.floor(math.log10(max(high, 1))) + 1)]
    return [0.0, *powers, *(5 * power for power in powers), *(2 * power for power in powers)]

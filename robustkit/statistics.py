"""Intervals and tests for shares of examples: one place, so that every figure means the same.

A share is a number of examples out of all n. Comparisons are paired: two models, attacks or doses
are tried on the same examples, and only those on which they differ tell them apart.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustkit.errors import BadInput, ShapeMismatch


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and the confidence interval around it.

    Attributes:
        value: The estimate.
        low: The interval's lower end.
        high: Its upper end.

    Raises:
        BadInput: Not three finite numbers in the order low, value, high.
    """

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        """Refuse what is no interval."""
        # NaN fails the comparison.
        if not -math.inf < self.low <= self.value <= self.high < math.inf:
            raise BadInput(
                f"{self.value} with the interval [{self.low}, {self.high}]: the value must lie in "
                "its interval, and all three must be finite."
            )


@dataclass(frozen=True, slots=True)
class Quartiles:
    """The middle of a sample and of its halves; infinite where the sample is.

    Attributes:
        q25: A quarter of the sample lies below.
        median: Half of it lies below.
        q75: Three quarters lie below.
    """

    q25: float
    median: float
    q75: float


def wilson(successes: float, n: int, confidence: float = 0.95) -> Interval:
    """The share of successes with Wilson's score interval.

    Args:
        successes: How many of the examples, 0 to n; not a whole number where some succeed in part.
        n: How many examples, at least 1.
        confidence: Share of repetitions in which the interval holds the truth, in (0, 1).

    Raises:
        BadInput: A number outside its range.

    Example:
        >>> wilson(0, 20)
        Interval(value=0.0, low=0.0, high=0.1611...)

    Reference:
        Wilson: Probable inference, the law of succession, and statistical inference. Journal of the
        American Statistical Association 22, 1927.
    """
    if n < 1 or not 0 <= successes <= n:
        raise BadInput(
            f"{successes} successes of {n}: there must be at least one example, and successes "
            "between none and all."
        )
    z = _z(confidence)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At the ends the bound is the share itself, which rounding would miss.
    low = 0.0 if successes == 0 else min(centre - half, share)
    high = 1.0 if successes == n else max(centre + half, share)
    return Interval(share, low, high)


def count_at_most(events: int, confidence: float = 0.95) -> float:
    """How many events there may be on average where so many were seen: Garwood's upper limit.

    Args:
        events: Events that were seen, none or more.
        confidence: Share of repetitions in which the limit is not below the truth, in (0, 1).

    Raises:
        BadInput: A number outside its range.

    Example:
        >>> round(count_at_most(0), 2)
        3.0

    Reference:
        Garwood: Fiducial limits for the Poisson distribution. Biometrika 28, 1936.
    """
    from scipy.special import pdtri

    if events < 0 or not 0 < confidence < 1:
        raise BadInput(
            f"{events} events at a confidence of {confidence}: there must be none or more, and it "
            "must lie between 0 and 1."
        )
    return float(pdtri(events, 1 - confidence))


def paired_difference(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> Interval:
    """How much larger the share of successes in `a` is than in `b`, with Tango's score interval.

    The interval holds every difference that a score test at this level would not reject. Unlike the
    textbook one it keeps its level in small samples and when hardly any pair differs.

    Args:
        a: (N,) bool, one entry per example.
        b: (N,) bool, the same examples in the same order.
        confidence: As for `wilson`.

    Raises:
        ShapeMismatch: Not two vectors of bool of the same length, at least 1.
        BadInput: A confidence outside (0, 1).

    Example:
        >>> paired_difference([True, True, True, False], [True, False, False, False])
        Interval(value=0.5, low=-0.234..., high=0.849...)

    Reference:
        Tango: Equivalence test and confidence interval for the difference in proportions for the
        paired-sample design. Statistics in Medicine 17, 1998.
    """
    z = _z(confidence)
    only_a, only_b, n = _discordant(a, b)
    difference = (only_a - only_b) / n

    def excess(shift: float) -> float:
        return _tango(only_a, only_b, n, shift)

    # The statistic falls from plus to minus infinity as the assumed difference grows.
    low = _root(lambda shift: excess(shift) - z, -1.0, difference)
    high = _root(lambda shift: excess(shift) + z, difference, 1.0)
    return Interval(difference, low, high)


def paired_ratio(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> Interval | None:
    """The mean of `a` as a share of the mean of `b`, with Fieller's interval for pairs.

    The interval holds every ratio r at which the mean of a - r b could be zero.

    Args:
        a: (N,) numbers, one per example.
        b: (N,) numbers, the same examples in the same order.
        confidence: As for `wilson`.

    Returns:
        None where the mean of `b` could be zero or less: then any ratio could be true.

    Raises:
        ShapeMismatch: Not two vectors of the same length, at least 2.
        BadInput: A confidence outside (0, 1).

    Example:
        >>> paired_ratio([0.5, 1.0, 0.5, 1.0], [1.0, 2.0, 1.0, 2.0])
        Interval(value=0.5, low=0.5, high=0.5)

    Reference:
        Fieller: Some problems in interval estimation. Journal of the Royal Statistical Society B
        16, 1954.
    """
    z = _z(confidence)
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape or len(first) < 2:
        raise ShapeMismatch(
            f"A ratio needs two vectors of one length, at least 2; given were {first.shape} and "
            f"{second.shape}."
        )
    (top, both), (_, bottom) = (np.cov(first, second) * z * z / len(first)).tolist()
    mean_a, mean_b = float(first.mean()), float(second.mean())
    square = mean_b * mean_b - bottom
    if mean_b <= 0 or square <= 0:
        return None
    middle = mean_a * mean_b - both
    root = math.sqrt(max(middle * middle - square * (mean_a * mean_a - top), 0.0))
    ratio = mean_a / mean_b
    # The ratio lies between both ends but for rounding.
    return Interval(
        ratio, min((middle - root) / square, ratio), max((middle + root) / square, ratio)
    )


def mcnemar(a: ArrayLike, b: ArrayLike) -> float:
    """The exact two-sided p-value of McNemar's test that `a` and `b` succeed equally often.

    Args:
        a: (N,) bool, one entry per example.
        b: (N,) bool, the same examples in the same order.

    Raises:
        ShapeMismatch: Not two vectors of bool of the same length, at least 1.

    Example:
        >>> mcnemar([True] * 6, [False] * 6)
        0.03125
    """
    from scipy.special import bdtr

    only_a, only_b, _ = _discordant(a, b)
    tail = float(bdtr(min(only_a, only_b), only_a + only_b, 0.5))
    return min(1.0, 2 * tail)


def median_and_quartiles(distances: ArrayLike) -> Quartiles:
    """The quartiles of a sample in which infinity means "not within reach".

    Between two neighbours of the sample the value is interpolated; between a finite one and an
    infinite one it is infinite.

    Args:
        distances: (N,) numbers, infinity included, at least one.

    Raises:
        BadInput: No numbers, or NaN among them.

    Example:
        >>> median_and_quartiles([1.0, 2.0, 3.0, float("inf")])
        Quartiles(q25=1.75, median=2.5, q75=inf)
    """
    sample = np.sort(np.asarray(distances, dtype=np.float64).ravel())
    if len(sample) == 0 or bool(np.isnan(sample).any()):
        raise BadInput("Quartiles need at least one distance, and none may be NaN.")
    return Quartiles(*(_quantile(sample, share) for share in (0.25, 0.5, 0.75)))


def _quantile(ordered: NDArray[np.float64], share: float) -> float:
    below, part = divmod(share * (len(ordered) - 1), 1)
    low, high = float(ordered[int(below)]), float(ordered[math.ceil(below + part)])
    # Equal neighbours may both be infinite, and their difference would be NaN.
    return low if low == high else low + part * (high - low)


def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise BadInput(f"The confidence is {confidence}; it must lie between 0 and 1.")
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _discordant(a: ArrayLike, b: ArrayLike) -> tuple[int, int, int]:
    """How many succeed in `a` alone, in `b` alone, and how many there are."""
    first, second = np.asarray(a), np.asarray(b)
    if first.ndim != 1 or first.shape != second.shape or len(first) == 0:
        raise ShapeMismatch(
            f"A paired comparison needs two vectors of one length, at least 1; given were "
            f"{first.shape} and {second.shape}."
        )
    if first.dtype != np.bool_ or second.dtype != np.bool_:
        raise ShapeMismatch(
            f"A paired comparison needs truth values, not {first.dtype} and {second.dtype}."
        )
    return int((first & ~second).sum()), int((second & ~first).sum()), len(first)


def _tango(only_a: int, only_b: int, n: int, shift: float) -> float:
    """The score statistic of the hypothesis that the true difference is `shift`."""
    linear = (2 * n - only_a + only_b) * shift - only_a - only_b
    constant = -only_b * shift * (1 - shift)
    root = math.sqrt(max(linear * linear - 8 * n * constant, 0.0))
    share_b = (root - linear) / (4 * n)  # the likeliest share of "b alone" under the hypothesis
    variance = n * (2 * share_b + shift * (1 - shift))
    distance = only_a - only_b - n * shift
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function changes its sign in [low, high], to the last bit."""
    while low < (middle := (low + high) / 2) < high:
        if falling(middle) > 0:
            low = middle
        else:
            high = middle
    return middle

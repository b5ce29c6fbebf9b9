import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest

from robustkit.errors import BadInput, ShapeMismatch
from robustkit.statistics import (
    Interval,
    mcnemar,
    median_and_quartiles,
    paired_difference,
    paired_ratio,
    wilson,
)

Truths = NDArray[np.bool_]


def pairs(both: int, only_a: int, only_b: int, neither: int) -> tuple[Truths, Truths]:
    counts = (both, only_a, only_b, neither)
    a = np.repeat([True, True, False, False], counts)
    b = np.repeat([True, False, True, False], counts)
    return a, b


class TestWilson:
    # Newcombe, Statistics in Medicine 17, 1998, 857-872, table I, method 3.
    @pytest.mark.parametrize(
        ("successes", "n", "low", "high"),
        [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ],
    )
    def test_published_values(self, successes: int, n: int, low: float, high: float) -> None:
        found = wilson(successes, n)
        assert found.value == successes / n
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)

    @given(n=st.integers(1, 10**6), share=st.floats(0, 1), confidence=st.floats(0.01, 0.999))
    def test_agrees_with_scipy(self, n: int, share: float, confidence: float) -> None:
        successes = round(share * n)
        found = wilson(successes, n, confidence)
        expected = binomtest(successes, n).proportion_ci(confidence, method="wilson")
        assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-12)
        assert 0 <= found.low <= found.value <= found.high <= 1

    @pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5)])
    def test_impossible_counts(self, successes: int, n: int) -> None:
        with pytest.raises(BadInput, match="successes of"):
            wilson(successes, n)

    @pytest.mark.parametrize("confidence", [0.0, 1.0, math.nan])
    def test_impossible_confidence(self, confidence: float) -> None:
        with pytest.raises(BadInput, match="between 0 and 1"):
            wilson(1, 2, confidence)


class TestPairedDifference:
    def test_published_value(self) -> None:
        # Fagerland, Lydersen, Laake, Statistics in Medicine 33, 2014, the airway example.
        found = paired_difference(*pairs(1, 1, 7, 12))
        assert found.value == -6 / 21
        assert (found.low, found.high) == pytest.approx((-0.517, -0.026), abs=5e-4)

    def test_without_a_difference_the_interval_is_that_of_no_event(self) -> None:
        # With no discordant pair the score interval is (-z2/(n + z2), z2/(n + z2)).
        bound = 1.959964**2 / (20 + 1.959964**2)
        found = paired_difference(*pairs(10, 0, 0, 10))
        assert (found.low, found.high) == pytest.approx((-bound, bound), abs=1e-6)

    def test_the_ends_are_what_a_score_test_just_rejects(self) -> None:
        both, only_a, only_b, neither = 30, 14, 6, 10
        n = both + only_a + only_b + neither
        found = paired_difference(*pairs(both, only_a, only_b, neither))
        for end in (found.low, found.high):
            # The likeliest table with this difference, by brute force over its one free share.
            shares_b = np.linspace(max(0, -end), (1 - end) / 2, 2_000_001)[1:-1]
            likelihood = (
                only_a * np.log(shares_b + end)
                + only_b * np.log(shares_b)
                + (n - only_a - only_b) * np.log(1 - 2 * shares_b - end)
            )
            share_b = shares_b[likelihood.argmax()]
            variance = n * (2 * share_b + end - end**2)
            assert abs(only_a - only_b - n * end) / math.sqrt(variance) == pytest.approx(
                1.959964, abs=1e-4
            )

    @given(st.tuples(*[st.integers(0, 40)] * 4).filter(lambda counts: sum(counts) > 0))
    def test_swapping_turns_it_around(self, counts: tuple[int, int, int, int]) -> None:
        a, b = pairs(*counts)
        there, back = paired_difference(a, b), paired_difference(b, a)
        assert there.value == -back.value
        assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-9)
        assert -1 <= there.low <= there.value <= there.high <= 1

    def test_it_holds_the_truth_as_often_as_it_says(self) -> None:
        # Every table of 12 pairs, weighted by its probability.
        n, only_a, only_b = 12, 0.3, 0.1
        covered = 0.0
        for x, y in itertools.product(range(n + 1), repeat=2):
            if x + y <= n:
                found = paired_difference(*pairs(n - x - y, x, y, 0))
                ways = math.comb(n, x) * math.comb(n - x, y)
                weight = ways * only_a**x * only_b**y * (1 - only_a - only_b) ** (n - x - y)
                covered += weight * (found.low <= only_a - only_b <= found.high)
        assert 0.93 < covered < 0.98

    @pytest.mark.parametrize(
        ("a", "b"),
        [([True], [True, False]), ([], []), ([[True]], [[True]]), ([1, 0], [0, 1])],
    )
    def test_what_is_no_pair_of_truth_vectors(self, a: list[bool], b: list[bool]) -> None:
        with pytest.raises(ShapeMismatch):
            paired_difference(a, b)


class TestPairedRatio:
    def test_the_ends_are_ratios_at_which_the_mean_could_just_be_zero(self) -> None:
        generator = np.random.default_rng(0)
        second = generator.random(400) < 0.8
        first = np.where(generator.random(400) < 0.7, second, generator.random(400) < 0.4)
        a, b = first - 0.1, second - 0.1
        found = paired_ratio(a, b)
        assert found is not None
        assert found.value == pytest.approx(a.mean() / b.mean())
        for end in (found.low, found.high):
            rest = a - end * b
            assert abs(rest.mean()) == pytest.approx(1.959964 * rest.std(ddof=1) / 20, rel=1e-5)

    def test_keeps_its_level(self) -> None:
        generator = np.random.default_rng(1)
        truth = ((0.7 * 0.8 + 0.3 * 0.4) - 0.1) / 0.7
        covered = 0
        for _ in range(1000):
            second = generator.random(200) < 0.8
            first = np.where(generator.random(200) < 0.7, second, generator.random(200) < 0.4)
            found = paired_ratio(first - 0.1, second - 0.1)
            covered += found is not None and found.low <= truth <= found.high
        assert 0.93 < covered / 1000 < 0.97

    def test_a_ratio_of_nothing_is_none(self) -> None:
        assert paired_ratio([1.0, 0.0, 1.0], [0.5, -0.5, 0.0]) is None
        assert paired_ratio([1.0, 1.0, 1.0], [-1.0, -2.0, -1.0]) is None

    @pytest.mark.parametrize(("a", "b"), [([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([[1.0]], [[1.0]])])
    def test_other_shapes_are_refused(self, a: list[float], b: list[float]) -> None:
        with pytest.raises(ShapeMismatch, match="two vectors of one length"):
            paired_ratio(a, b)


class TestMcNemar:
    @given(only_a=st.integers(0, 60), only_b=st.integers(0, 60))
    def test_is_the_exact_sign_test(self, only_a: int, only_b: int) -> None:
        total = only_a + only_b
        tail = sum(math.comb(total, k) for k in range(min(only_a, only_b) + 1))
        expected = min(Fraction(1), Fraction(2 * tail, 2**total))
        assert mcnemar(*pairs(5, only_a, only_b, 5)) == pytest.approx(float(expected), rel=1e-9)

    def test_many_pairs(self) -> None:
        expected = binomtest(4800, 10000).pvalue
        assert mcnemar(*pairs(0, 4800, 5200, 0)) == pytest.approx(expected, rel=1e-9)


class TestQuartiles:
    @given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
    def test_finite_samples_as_numpy(self, sample: list[float]) -> None:
        found = median_and_quartiles(sample)
        expected = np.quantile(sample, [0.25, 0.5, 0.75])
        assert [found.q25, found.median, found.q75] == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize(
        ("sample", "expected"),
        [
            ([math.inf], (math.inf, math.inf, math.inf)),
            ([1.0, math.inf], (math.inf, math.inf, math.inf)),
            ([1.0, 2.0, math.inf], (1.5, 2.0, math.inf)),
            ([3.0, math.inf, 1.0, math.inf, 2.0], (2.0, 3.0, math.inf)),
        ],
    )
    def test_infinity_means_out_of_reach(
        self, sample: list[float], expected: tuple[float, ...]
    ) -> None:
        found = median_and_quartiles(sample)
        assert (found.q25, found.median, found.q75) == expected

    @pytest.mark.parametrize("sample", [[], [1.0, math.nan]])
    def test_nothing_to_rank(self, sample: list[float]) -> None:
        with pytest.raises(BadInput):
            median_and_quartiles(sample)


@pytest.mark.parametrize(
    "ends", [(0.5, 0.6, 0.7), (0.5, 0.1, 0.4), (math.nan, 0, 1), (0.5, -math.inf, 1)]
)
def test_an_interval_holds_its_value(ends: tuple[float, float, float]) -> None:
    with pytest.raises(BadInput):
        Interval(*ends)

"""Trends against independent oracles, and against noise that remembers."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import signal, stats

from netdoctor import trends

SEEDS = 200
ALPHA = 0.05


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def ar1(points: int, memory: float, seed: int) -> NDArray[np.float64]:
    """Stationary AR(1) noise of variance 1."""
    white = np.random.default_rng(seed).standard_normal(points + 300)
    return np.asarray(signal.lfilter([math.sqrt(1 - memory**2)], [1, -memory], white)[300:])


def share(test: Callable[[NDArray[np.float64]], bool], points: int, memory: float, drop: float = 0.0) -> float:
    ramp = np.linspace(0, -drop, points)
    return float(np.mean([test(ar1(points, memory, seed) + ramp) for seed in range(SEEDS)]))


class TestFalseAlarms:
    @pytest.mark.parametrize(
        ("points", "memory"),
        [(10, 0.0), (16, 0.5), (32, 0.8), (64, 0.0), (64, 0.9), (200, 0.9), (500, 0.95), (2048, 0.0), (2048, 0.98)],
    )
    @pytest.mark.parametrize("test", [trends.is_falling, trends.is_rising])
    def test_flat_noise_is_seldom_a_trend(
        self, test: Callable[[NDArray[np.float64]], bool], points: int, memory: float
    ) -> None:
        assert share(test, points, memory) <= 2 * ALPHA

    @pytest.mark.parametrize(("points", "memory"), [(64, 0.0), (256, 0.5), (2048, 0.9)])
    def test_flat_noise_is_mostly_flat(self, points: int, memory: float) -> None:
        assert share(trends.is_flat, points, memory) >= 0.8

    @pytest.mark.parametrize(("points", "memory"), [(32, 0.0), (128, 0.5), (1000, 0.9)])
    def test_welch_seldom_finds_a_difference_in_flat_noise(self, points: int, memory: float) -> None:
        found = share(lambda x: trends.welch(x[: points // 2], x[points // 2 :])[1] < ALPHA, points, memory)
        assert found <= 2 * ALPHA

    def test_a_test_blind_to_autocorrelation_would_cry_wolf(self) -> None:
        naive = share(lambda x: stats.linregress(np.arange(len(x)), x).pvalue < ALPHA, 200, 0.9)
        assert naive > 0.4
        assert share(lambda x: trends.is_falling(x) or trends.is_rising(x), 200, 0.9) < naive / 4


class TestPower:
    @pytest.mark.parametrize(("points", "memory", "drop"), [(16, 0.0, 4), (64, 0.0, 2), (200, 0.5, 3), (2048, 0.9, 2)])
    def test_a_real_fall_is_found(self, points: int, memory: float, drop: float) -> None:
        assert share(trends.is_falling, points, memory, drop) >= 0.8
        assert share(trends.is_rising, points, memory, -drop) >= 0.8
        assert share(trends.is_rising, points, memory, drop) == 0

    @pytest.mark.parametrize("points", [5, 9, 20, 300, 2048])
    def test_a_smooth_curve_is_judged_rightly_whatever_its_shape(self, points: int) -> None:
        for curve in (
            np.exp(-np.linspace(0, 5, points)),
            -(np.linspace(0, 1, points) ** 3),
            1 / np.arange(1, points + 1),
        ):
            assert trends.is_falling(curve)
            assert trends.is_rising(-curve)
            assert not trends.is_flat(curve)
            assert not trends.is_rising(curve)

    def test_a_loss_that_fell_and_rose_again_is_none_of_them(self) -> None:
        valley = np.abs(np.linspace(-1, 1, 500)) + 0.01 * ar1(500, 0.0, 0)
        assert not trends.is_falling(valley)
        assert not trends.is_rising(valley)

    def test_bouncing_between_walls_is_flat(self) -> None:
        assert trends.is_flat([1.0, 2.0] * 10)

    def test_one_spike_at_the_end_is_no_rise(self) -> None:
        assert share(lambda x: trends.is_rising(np.append(x, 1e6)), 200, 0.0) <= 2 * ALPHA

    def test_a_spike_does_not_hide_a_trend(self) -> None:
        values = np.linspace(2, 1, 200) + 0.1 * ar1(200, 0.0, 1)
        values[50] = 1e6
        assert trends.is_falling(values)


class TestOddInput:
    @pytest.mark.parametrize("values", [[], [1], [3, 2, 1], [math.nan] * 9, [math.inf, 3, math.nan, 2, 1]])
    def test_below_four_readings_there_is_no_verdict(self, values: list[float]) -> None:
        assert not any((trends.is_falling(values), trends.is_rising(values), trends.is_flat(values)))
        assert trends.mann_kendall(values) == (0.0, 1.0)
        assert trends.theil_sen(range(len(values)), values) == (0.0, -math.inf, math.inf)
        assert trends.welch(values, values)[1] == 1.0

    @pytest.mark.parametrize("value", [0.0, 0.1, -3e38, 1e-45])
    def test_constant_is_flat(self, value: float) -> None:
        values = np.full(100, value, np.float32)
        assert trends.is_flat(values)
        assert not any((trends.is_falling(values), trends.is_rising(values)))
        assert trends.noise(values) == 0
        assert trends.theil_sen(range(100), values) == (0.0, 0.0, 0.0)
        assert trends.welch(values, values) == (0.0, 1.0)

    def test_rounding_of_a_converged_loss_is_no_trend(self) -> None:
        values = np.linspace(1.0, 1.0 - 5e-7, 400).astype(np.float32)
        assert trends.is_flat(values)
        assert not trends.is_falling(values)

    def test_what_is_not_finite_is_left_out(self) -> None:
        clean = np.linspace(3, 1, 60) + 0.1 * ar1(60, 0.0, 2)
        holes = np.insert(clean, [5, 20, 40], [math.nan, math.inf, -math.inf])
        for function in (trends.is_falling, trends.is_rising, trends.is_flat, trends.mann_kendall, trends.noise):
            assert function(holes) == function(clean)

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.floats(width=32), max_size=60))
    def test_any_reading_gets_at_most_one_verdict_without_a_warning(self, values: list[float]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            verdicts = (trends.is_falling(values), trends.is_rising(values), trends.is_flat(values))
            assert sum(verdicts) <= 1
            assert all(isinstance(verdict, bool) for verdict in verdicts)
            half = len(values) // 2
            assert 0 <= trends.welch(values[:half], values[half:])[1] <= 1
            assert trends.noise(values) >= 0
            trends.theil_sen(range(len(values)), values)


class TestOracles:
    def test_block_means_end_with_the_last_value(self) -> None:
        assert trends.block_means([99, 1, 3, 5, 7], 2).tolist() == [2, 6]
        assert trends.block_means([1, 2], 8).tolist() == [1, 2]
        assert trends.block_means([99, 1, 2], 2).tolist() == [1, 2]
        with pytest.raises(ValueError, match="at least 1"):
            trends.block_means([1, 2], 0)

    @pytest.mark.parametrize("points", [4, 8, 15, 33, 40])
    def test_mann_kendall_agrees_with_scipy(self, points: int) -> None:
        for seed in range(10):
            values = ar1(points, 0.5, seed) + np.linspace(0, seed / 3, points)
            for given_values in (values, np.round(values)):
                oracle = stats.kendalltau(np.arange(points), given_values)
                assert trends.mann_kendall(given_values) == pytest.approx((oracle.statistic, oracle.pvalue))

    def test_mann_kendall_agrees_with_all_permutations(self) -> None:
        values = [3.0, 1.0, 4.0, 2.0, 6.0, 5.0]

        def score(order: tuple[float, ...] | list[float]) -> int:
            return sum(1 if b > a else -1 for a, b in itertools.combinations(order, 2))

        seen = [abs(score(order)) >= abs(score(values)) for order in itertools.permutations(values)]
        assert trends.mann_kendall(values)[1] == pytest.approx(np.mean(seen))

    @pytest.mark.parametrize("points", [20, 64, 65, 500, 2048])
    def test_theil_sen_finds_the_slope_of_least_squares_and_ignores_outliers(self, points: int) -> None:
        steps = np.arange(points) * 10
        values = 5 - 0.02 * steps + 0.1 * ar1(points, 0.0, 3)
        oracle = stats.linregress(steps, values)
        slope, low, high = trends.theil_sen(steps, values)
        assert low <= slope <= high
        assert slope == pytest.approx(oracle.slope, abs=4 * oracle.stderr)
        assert low < -0.02 < high
        values[:2] = 1e9
        assert trends.theil_sen(steps, values)[0] == pytest.approx(-0.02, rel=0.2)

    def test_theil_sen_refuses_series_of_different_lengths(self) -> None:
        with pytest.raises(ValueError, match="same length"):
            trends.theil_sen([1, 2, 3], [1, 2])

    def test_noise_reads_the_noise_not_the_trend_nor_spikes(self) -> None:
        values = 0.3 * ar1(2000, 0.0, 4) + np.linspace(100, 0, 2000)
        assert trends.noise(values) == pytest.approx(0.3, rel=0.1)
        values[::100] += 50
        assert trends.noise(values) == pytest.approx(0.3, rel=0.2)
        assert trends.noise(np.linspace(0, 1, 50)) == pytest.approx(0, abs=1e-12)

    def test_welch_agrees_with_the_t_test_on_white_noise(self) -> None:
        before, after = ar1(400, 0.0, 5), ar1(300, 0.0, 6) + 0.15
        difference, p = trends.welch(before, after)
        oracle = stats.ttest_ind(after, before, equal_var=False)
        assert difference == pytest.approx(after.mean() - before.mean())
        assert p == pytest.approx(oracle.pvalue, abs=0.05)

    def test_welch_asks_more_of_noise_that_remembers(self) -> None:
        before, after = ar1(200, 0.9, 7), ar1(200, 0.9, 8) + 0.5
        assert trends.welch(before, after)[1] > 10 * stats.ttest_ind(before, after, equal_var=False).pvalue

    def test_welch_between_two_constants(self) -> None:
        assert trends.welch([1.0] * 5, [2.0] * 5) == (1.0, 0.0)

    def test_relative_change(self) -> None:
        assert trends.relative_change(2.0, 1.5) == -0.25
        assert trends.relative_change(-2.0, -1.0) == 0.5
        assert trends.relative_change(0.0, 0.0) == 0.0
        assert trends.relative_change(0.0, -1.0) == -math.inf
        assert math.isnan(trends.relative_change(math.nan, 1.0))

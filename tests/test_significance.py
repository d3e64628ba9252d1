"""scipy as the oracle of the tests that netdoctor carries along, and what importing it would cost."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy import optimize, special, stats

from netdoctor import significance

SERIES = [np.random.default_rng(seed).normal(size=size) for seed in range(4) for size in (5, 20, 64, 200)]
TIED = [series.round(1) for series in SERIES]


@pytest.mark.parametrize("values", [*SERIES, *TIED], ids=lambda values: str(len(values)))
def test_kendall(values: np.ndarray) -> None:
    earlier, later = np.triu_indices(len(values), 1)
    score = float(np.sign(values[later] - values[earlier]).sum())
    expected = stats.kendalltau(np.arange(len(values)), values, method="asymptotic")
    assert significance.kendall(score, values) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-9)


@pytest.mark.parametrize("values", [*SERIES[:12], *TIED[:12]], ids=lambda values: str(len(values)))
def test_sen_slopes(values: np.ndarray) -> None:
    steps = np.cumsum(np.random.default_rng(1).integers(1, 9, len(values))).astype(float)
    fit = stats.theilslopes(values, steps, 0.95)
    assert significance.sen_slopes(steps, values) == pytest.approx((fit[0], fit[2], fit[3]), rel=1e-9)


@pytest.mark.parametrize("shift", [0.0, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("sizes", [(2.0, 2.0), (7.3, 2.0), (40.5, 11.1), (3000.0, 5000.0)])
def test_welch(shift: float, sizes: tuple[float, float]) -> None:
    before, after = np.random.default_rng(2).normal(size=40), shift + np.random.default_rng(3).normal(size=40) / 3
    expected = stats.ttest_ind_from_stats(
        after.mean(), after.std(ddof=1), sizes[1], before.mean(), before.std(ddof=1), sizes[0], equal_var=False
    )
    assert significance.welch(before, after, sizes) == pytest.approx(expected.pvalue, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("a", [0.5, 1.0, 3.7, 500.0])
@pytest.mark.parametrize("b", [0.5, 2.0, 40.0])
@pytest.mark.parametrize("x", [0.0, 1e-9, 0.1, 0.5, 0.93, 1 - 1e-9, 1.0])
def test_incomplete_beta(x: float, a: float, b: float) -> None:
    assert significance.incomplete_beta(x, a, b) == pytest.approx(special.betainc(a, b, x), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("values", [*SERIES, *TIED, np.arange(9.0), np.arange(9.0)[::-1], np.ones(5)])
def test_rising(values: np.ndarray) -> None:
    assert significance.rising(values) == pytest.approx(optimize.isotonic_regression(values).x)


def test_netdoctor_does_without_scipy() -> None:
    code = """
import sys; sys.modules["scipy"] = None
import numpy as np
from netdoctor import trends
noise = np.random.default_rng(0).normal(size=300)
trends.theil_sen(range(300), noise); trends.mann_kendall(noise); trends.is_rising(noise + np.arange(300))
trends.welch(noise[:100], noise[100:])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr

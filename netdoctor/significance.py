"""How likely chance alone is: the few tests that `netdoctor.trends` asks, in numpy.

They are scipy's, and tested against it. To import ``scipy.stats`` takes a second or more and 60 MB, which would fall on
a user's training in the middle of it, at the first loss that looks like a trend.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NORMAL_95 = 1.959963984540054  # standard deviations that 95 % of a normal distribution are within
PRECISION = 1e-14  # relative, of the incomplete beta function


def kendall(score: float, values: Array) -> tuple[float, float]:
    """Kendall's tau-b of ``values`` against time and its two-sided p, normal approximation.

    Args:
        score: Pairs that rise less those that fall.
        values: The series, of more than two points that are not all equal.

    Reference: Kendall 1970, "Rank correlation methods", chapters 3 and 4.
    """
    n, ties = len(values), _ties(values)
    pairs = n * (n - 1) / 2
    tau = score / math.sqrt(pairs) / math.sqrt(pairs - float((ties * (ties - 1)).sum()) / 2)
    return tau, math.erfc(abs(score) / math.sqrt(2 * _variance(n, ties)))


def sen_slopes(x: Array, y: Array) -> tuple[float, float, float]:
    """Median of the slopes of all pairs of points, and its 95 % confidence interval (low, high).

    Reference: Sen 1968, "Estimates of the regression coefficient based on Kendall's tau".
    """
    first, second = np.triu_indices(len(x), 1)
    run, rise = x[second] - x[first], y[second] - y[first]
    slopes = np.sort(rise[run != 0] / run[run != 0])
    count = len(slopes)
    reach = NORMAL_95 * math.sqrt(max(_variance(len(y), _ties(x), _ties(y)), 0.0))
    low = max(round((count - reach) / 2) - 1, 0)
    high = min(round((count + reach) / 2), count - 1)
    return float(np.median(slopes)), float(slopes[low]), float(slopes[high])


def welch(before: Array, after: Array, sizes: tuple[float, float]) -> float:
    """Two-sided p that two windows have the same mean, given how many independent points each is worth.

    Reference: Welch 1947, "The generalization of Student's problem".
    """
    parts = [window.var(ddof=1) / size for window, size in zip((before, after), sizes, strict=True)]
    total = float(sum(parts))
    freedom = total**2 / sum(float(part) ** 2 / (size - 1) for part, size in zip(parts, sizes, strict=True))
    return student(float(after.mean() - before.mean()) / math.sqrt(total), freedom)


def student(t: float, freedom: float) -> float:
    """Probability that Student's t is at least as far from 0, on either side."""
    return incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5)


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function, by its continued fraction.

    Reference: Press et al. 2007, "Numerical recipes", section 6.4.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction of the other side converges faster
        return 1 - incomplete_beta(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    c, d = 1.0, 1 / _away(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 1000):
        for factor in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _away(1 + factor * d)
            c = _away(1 + factor / c)
            value *= c * d
        if abs(c * d - 1) < PRECISION:
            break
    return front * value


def rising(values: Array) -> Array:
    """The never falling series nearest to ``values`` in squares, by pooling neighbours that fall.

    Reference: Barlow et al. 1972, "Statistical inference under order restrictions".
    """
    means: list[float] = []
    counts: list[int] = []
    for value in values.tolist():
        mean, count = value, 1
        while means and means[-1] >= mean:
            before = counts.pop()
            mean = (means.pop() * before + mean * count) / (before + count)
            count += before
        means.append(mean)
        counts.append(count)
    return np.repeat(means, counts)


def _ties(values: Array) -> NDArray[np.int64]:
    """How often each value comes."""
    return np.unique(values, return_counts=True)[1]


def _variance(n: int, *ties: NDArray[np.int64]) -> float:
    """Of the score of Kendall's tau of ``n`` points in random order."""
    tied = sum(float((t * (t - 1) * (2 * t + 5)).sum()) for t in ties)
    return (n * (n - 1) * (2 * n + 5) - tied) / 18


def _away(value: float) -> float:
    """``value``, or something tiny in place of 0."""
    return value if abs(value) > 1e-300 else 1e-300

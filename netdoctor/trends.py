"""Is it rising, falling or flat? Tests that account for noise and its autocorrelation.

Every function takes plain series, leaves out what is not finite, and answers "cannot tell" (False, p = 1) on too few
points. Steps are taken as evenly spaced where none are given. All probabilities are two-sided.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from netdoctor import significance

Array = NDArray[np.float64]

FEWEST = 4  # points: below, neither noise nor a trend can be told
RESOLUTION = 1e-6  # relative: means of float32 readings closer than this are equal
MEMORY = 2.0  # correlation times a block spans at least; measured: false alarms stay below 2 alpha from 64 points on
FLAT = (
    3.0  # standard deviations of the block means; measured: 90 % of windows of white noise are flat from 64 points on
)
LONGEST = 64  # points given to the quadratic Theil–Sen estimator
EXACT = 33  # points; up to here p of Mann–Kendall is exact


def block_means(values: ArrayLike, blocks: int) -> Array:
    """Means of ``blocks`` equal consecutive blocks, in the unit of ``values``.

    The blocks end with the last value; what does not fill them is dropped at the start. Where there are fewer values
    than blocks, each is its own block. Means of blocks longer than the noise's memory are close to independent and
    normal, which tests of trend require and raw losses are not.

    Reference: Flyvbjerg and Petersen 1989, "Error estimates on averages of correlated data".
    """
    finite = _finite(values)
    if blocks < 1:
        raise ValueError(f"blocks must be at least 1, got {blocks}")
    length = len(finite) // blocks
    return finite[-blocks * length :].reshape(blocks, length).mean(1) if length else finite


def theil_sen(steps: ArrayLike, values: ArrayLike) -> tuple[float, float, float]:
    """Slope in units of ``values`` per step, and its 95 % confidence interval (low, high).

    The median of the slopes of all pairs of points: up to 29 % of outliers do not move it. Longer series are first
    reduced to at most 64 block means. Below 4 points the slope is 0 and the interval infinite.

    Reference: Sen 1968, "Estimates of the regression coefficient based on Kendall's tau".
    """
    x, y = np.asarray(steps, float), np.asarray(values, float)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"steps and values must be two series of the same length, got shapes {x.shape} and {y.shape}")
    seen = np.isfinite(x) & np.isfinite(y)
    x, y = x[seen], y[seen]
    if len(x) > LONGEST:
        blocks = len(x) // -(-len(x) // LONGEST)
        x, y = block_means(x, blocks), block_means(y, blocks)
    if len(x) < FEWEST or np.ptp(x) == 0:
        return 0.0, -np.inf, np.inf
    if np.ptp(y) == 0:
        return 0.0, 0.0, 0.0
    return significance.sen_slopes(x, y)


def mann_kendall(values: ArrayLike) -> tuple[float, float]:
    """Kendall's tau of ``values`` against time (−1 always falling, 1 always rising) and its two-sided p.

    Pass block means: p assumes independent values. Any monotone trend counts, whatever its shape. Without differences
    beyond 1e-6 of the largest value, and below 4 points: (0, 1).

    Reference: Mann 1945, "Nonparametric tests against trend".
    """
    finite = _finite(values)
    if len(finite) < FEWEST or _constant(finite):
        return 0.0, 1.0
    signs = _pairs(finite)
    if len(finite) > EXACT or not signs.all():
        return significance.kendall(float(signs.sum()), finite)
    falls = int((signs < 0).sum())
    p = 2 * _falls_distribution(len(finite))[min(falls, len(signs) - falls)]
    return float(signs.mean()), min(1.0, float(p))


def noise(values: ArrayLike) -> float:
    """Standard deviation of the point-to-point noise, in the unit of ``values``.

    From the median absolute deviation of successive differences from their mean: neither a steady trend nor a few
    spikes count as noise, bouncing does. Exact for white normal noise; noise of lag-1 autocorrelation r reads smaller,
    by √(1 − r). 0 below 3 points.

    Reference: von Neumann et al. 1941, "The mean square successive difference"; 0.6745: MAD of a standard normal.
    """
    differences = np.diff(_finite(values))
    if len(differences) < 2:
        return 0.0
    return float(np.median(np.abs(differences - differences.mean())) / (0.6745 * np.sqrt(2.0)))


def is_falling(values: ArrayLike, *, blocks: int = 8, alpha: float = 0.05) -> bool:
    """Whether ``values`` fall by more than autocorrelated noise explains.

    Mann–Kendall on the means of ``blocks`` blocks (up to twice as many in short series, to drop no reading), fewer
    where the noise remembers: a block spans two correlation times of what the best falling curve (isotonic regression)
    leaves. Spikes are clipped. A flat series with white noise is called falling with probability ``alpha``/2 at most;
    with AR(1) noise up to 0.9, from 64 points on, with 2 ``alpha`` at most (measured: 0.05).
    No verdict (False) at fewer than 5 blocks, the fewest that can show a trend at 5 %. Says nothing of how far the
    values fall: hold `relative_change` against what matters.
    """
    return _trend(_finite(values), -1, blocks, alpha)


def is_rising(values: ArrayLike, *, blocks: int = 8, alpha: float = 0.05) -> bool:
    """Whether ``values`` rise by more than autocorrelated noise explains; see `is_falling`."""
    return _trend(_finite(values), 1, blocks, alpha)


def is_flat(values: ArrayLike, *, blocks: int = 8, alpha: float = 0.05) -> bool:
    """Whether ``values`` go nowhere.

    Flat: neither `is_falling` nor `is_rising`, and the Theil–Sen line over the block means changes from the first
    block to the last by at most 3 standard deviations of the block means' own noise. Not the negation of the other
    two: a window too short, or short against the memory of its noise, is neither falling, rising nor flat.
    """
    finite = _finite(values)
    if len(finite) < FEWEST:
        return False
    if _constant(finite):
        return True
    means = _means(finite, finite - finite.mean(), blocks)
    if len(means) < FEWEST:
        return False
    i, j = np.triu_indices(len(means), 1)
    change = float(np.median((means[j] - means[i]) / (j - i))) * (len(means) - 1)
    if abs(change) > FLAT * noise(means):
        return False
    return not (_trend(finite, -1, blocks, alpha) or _trend(finite, 1, blocks, alpha))


def relative_change(before: float, after: float) -> float:
    """(after − before) / |before|, a ratio: −0.1 is a fall by 10 %. From 0: 0 to 0, infinite to anything else."""
    if before == 0:
        return 0.0 if after == 0 else float(after) * float("inf")
    return float(after - before) / abs(float(before))


def welch(before: ArrayLike, after: ArrayLike) -> tuple[float, float]:
    """Difference of the means, after − before, in the unit of the values, and its two-sided p.

    Welch's t test with the effective sample size n (1 − r) / (1 + r) in place of n, where r is the lag-1
    autocorrelation within the two windows. A trend inside a window raises r and so p: the test errs towards "no
    difference". Windows below 30 correlation times understate p (at AR(1) 0.9 and 32 points each, 9 % fall below 0.05).
    p is 1 where a window has fewer than 4 points; the difference is NaN where one is empty.

    References: Welch 1947; Zwiers and von Storch 1995, "Taking serial correlation into account in tests of the mean".
    """
    a, b = _finite(before), _finite(after)
    if not len(a) or not len(b):
        return float("nan"), 1.0
    difference = float(b.mean() - a.mean())
    if min(len(a), len(b)) < FEWEST or _constant(np.concatenate((a, b))):
        return difference, 1.0
    if _constant(a) and _constant(b):
        return difference, 0.0
    shrink = 1 / _correlation_time(a - a.mean(), b - b.mean())
    return difference, significance.welch(a, b, (max(len(a) * shrink, 2.0), max(len(b) * shrink, 2.0)))


def _finite(values: ArrayLike) -> Array:
    """The finite values in order, as float64."""
    array = np.asarray(values, np.float64).ravel()
    return array[np.isfinite(array)]


def _constant(values: Array) -> bool:
    return bool(np.ptp(values) <= RESOLUTION * np.abs(values).max())


def _correlation_time(*residuals: Array) -> float:
    """(1 + r) / (1 − r), the points of AR(1) noise that count as one independent point; at least 1.

    r is the lag-1 autocorrelation within the stretches, of residuals clipped at 3 robust standard deviations (a spike
    would hide it) and corrected for its bias in short stretches (Kendall 1954: −(1 + 4r)/n).
    """
    together = np.concatenate(residuals)
    bound = 3 * float(np.median(np.abs(together))) / 0.6745
    clipped = [np.clip(stretch, -bound, bound) if bound > 0 else stretch for stretch in residuals]
    power = sum(float(stretch @ stretch) for stretch in clipped)
    if power == 0:
        return 1.0
    r = sum(float(stretch[1:] @ stretch[:-1]) for stretch in clipped) / power
    r = min(max(r + (1 + 4 * max(r, 0.0)) / len(together), 0.0), 0.999)
    return (1 + r) / (1 - r)


def _means(values: Array, residuals: Array, blocks: int) -> Array:
    """Means of at least ``blocks`` blocks, or of fewer that are long enough against the memory of ``residuals``."""
    rounding = np.abs(residuals) <= RESOLUTION * np.abs(values).max()
    needed = 1 + MEMORY * (_correlation_time(np.where(rounding, 0.0, residuals)) - 1)
    length = max(int(np.ceil(needed)), len(values) // blocks, 1)
    return block_means(values, max(len(values) // length, 1))


def _pairs(values: Array) -> Array:
    """The sign of later minus earlier, for every pair."""
    earlier, later = np.triu_indices(len(values), 1)
    signs: Array = np.sign(values[later] - values[earlier])
    return signs


@lru_cache(maxsize=EXACT)
def _falls_distribution(points: int) -> Array:
    """P(at most k of all pairs fall) for k = 0, 1, … under random order: the inversions of permutations."""
    density = np.ones(1)
    for length in range(2, points + 1):
        density = np.convolve(density, np.full(length, 1 / length))
    return density.cumsum()


def _fenced(values: Array) -> Array:
    """``values`` clipped at Tukey's outer fences, lest one spike in the last block looks like a rise."""
    low, high = np.quantile(values, (0.25, 0.75))
    reach = 3 * (high - low)
    return values.clip(low - reach, high + reach) if reach > 0 else values


def _trend(values: Array, sign: int, blocks: int, alpha: float) -> bool:
    """Whether finite ``values`` go in the direction of ``sign``."""
    if len(values) < FEWEST or _constant(values):
        return False
    values = _fenced(values)
    curve = sign * significance.rising(sign * values)
    tau, p = mann_kendall(_means(values, values - curve, blocks))
    return tau * sign > 0 and p < alpha

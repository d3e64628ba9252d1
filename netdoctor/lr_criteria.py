"""Which learning rates a range test's curve names, each by another criterion; arrays of one value a step."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
WIDTH = 2.0  # steps of the smoothing's standard deviation: 100 steps over 7 decades are 14 a decade
LEFT = float((2 * np.sqrt(np.pi) * WIDTH) ** -0.5)  # share of the noise that smoothing leaves


def smooth(values: Array, width: float = WIDTH) -> Array:
    """Gaussian-weighted mean over the steps on both sides; what is not finite is left out."""
    places = np.arange(len(values))
    finite = np.isfinite(values)
    weights = np.exp(-0.5 * ((places[:, None] - places[None, :]) / width) ** 2) * finite
    total = weights.sum(1)
    smoothed = weights @ np.where(finite, values, 0.0)
    return np.asarray(np.divide(smoothed, total, out=np.full(len(values), np.nan), where=total > 0))


def lowest(smoothed: Array) -> int:
    """Step of the lowest loss."""
    return int(np.nanargmin(smoothed))


def steepest(rates: Array, smoothed: Array) -> int:
    """Step before the lowest one at which the loss falls fastest over the logarithm of the rate (Smith 2017)."""
    end = lowest(smoothed)
    if end < 2:
        return end
    return int(np.argmin(np.gradient(smoothed[: end + 1], np.log(rates[: end + 1]))))


def valley(smoothed: Array) -> int:
    """Step in the middle of the longest stretch of falling losses (fastai's suggestion)."""
    longest = np.ones(len(smoothed), int)  # of falling subsequences that end at each step
    for step in range(1, len(smoothed)):
        before = longest[:step][smoothed[step] < smoothed[:step]]
        longest[step] = 1 + (before.max() if len(before) else 0)
    end = int(np.argmax(longest))
    start = end - int(longest[end]) + 1
    return start + (end - start) // 2


def quadratic(cosines: Array) -> int | None:
    """Step at which successive gradients stop agreeing for good, None where they do not.

    On a quadratic a step of 1 over the curvature makes the next gradient orthogonal to the last one.
    """
    smoothed = smooth(cosines, 2 * WIDTH)
    agreeing = np.flatnonzero(smoothed > 0)
    last = int(agreeing[-1]) if len(agreeing) else 0
    return last if 0 < last < len(smoothed) - 1 else None  # whose own step is the first to overshoot


def noise(losses: Array) -> float:
    """Standard deviation of the loss from batch to batch, from the steps that change nothing yet."""
    start = losses[: max(len(losses) // 5, 5)]
    return float(np.std(np.diff(start)) / np.sqrt(2)) if len(start) > 2 else 0.0

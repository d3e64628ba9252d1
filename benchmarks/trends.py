"""What the judges of a series take for 2,048 points: python benchmarks/trends.py. The bar is a millisecond each."""

from __future__ import annotations

import timeit

import numpy as np

from netdoctor import significance, trends

POINTS = 2048


def main() -> None:
    values, steps = np.random.default_rng(0).normal(size=POINTS), np.arange(POINTS)
    calls = {
        "is_falling": lambda: trends.is_falling(values),
        "is_flat": lambda: trends.is_flat(values),
        "theil_sen": lambda: trends.theil_sen(steps, values),
        "welch": lambda: trends.welch(values[:1000], values[1000:]),
        "rising": lambda: significance.rising(values),
    }
    for name, call in calls.items():
        print(f"{name:12} {min(timeit.repeat(call, number=1, repeat=50)) * 1e3:.2f} ms")


if __name__ == "__main__":
    main()

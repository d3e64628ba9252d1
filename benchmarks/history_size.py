"""Memory of the history of a long run, all statistics of many layers: python benchmarks/history_size.py.

Simulated: random readings are recorded as a run of that length would record them if it sampled every step.
"""

from __future__ import annotations

import argparse
import tracemalloc

import numpy as np

from netdoctor.history import History
from netdoctor.statistics import STATISTICS

BAR = 50  # MB for 200 layers, DESIGN.md section 6
AT_ONCE = 32  # steps decoded together, as `Recorder` does


def history(layers: int, steps: int) -> History:
    """Of that many layers with a weight and a bias each."""
    names = tuple(f"blocks.{index}.linear" for index in range(layers))
    columns = {
        "layer": names,
        "parameter": tuple(f"{name}.{leaf}" for name in names for leaf in ("weight", "bias")),
        "group": ("0",),
        "run": ("",),
    }
    random, made = np.random.default_rng(0), History()
    for first in range(1, steps + 1, AT_ONCE):
        at = range(first, min(first + AT_ONCE, steps + 1))
        for statistic in STATISTICS.values():
            if "_quantile_" not in statistic.name:  # log-spaced: a few rows
                made.record_rows(
                    at, statistic.name, random.random((len(at), len(columns[statistic.site]))), columns[statistic.site]
                )
    return made


def megabytes(layers: int, steps: int) -> float:
    """What the history holds."""
    tracemalloc.start()
    made = history(layers, steps)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del made
    return held / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, nargs="+", default=[20, 200, 1000])
    parser.add_argument("--steps", type=int, default=100_000)
    options = parser.parse_args()
    for layers in options.layers:
        bar = f" (bar {BAR})" if layers == 200 else ""
        print(f"{layers:5} layers, {options.steps} steps: {megabytes(layers, options.steps):.0f} MB{bar}", flush=True)


if __name__ == "__main__":
    main()

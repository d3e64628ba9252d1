"""Memory of the history of a long run, all statistics of many layers: python benchmarks/history_size.py.

Simulated: random readings are recorded as a run of that length would record them if it sampled every step.
"""

from __future__ import annotations

import argparse
import gc
import os
from pathlib import Path

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
    made = History()
    readings = {site: np.random.default_rng(0).random((AT_ONCE, len(named))) for site, named in columns.items()}
    for first in range(1, steps + 1, AT_ONCE):
        at = range(first, min(first + AT_ONCE, steps + 1))
        for statistic in STATISTICS.values():
            if "_quantile_" not in statistic.name:  # log-spaced: a few rows
                made.record_rows(at, statistic.name, readings[statistic.site][: len(at)], columns[statistic.site])
    return made


def megabytes(layers: int, steps: int) -> float:
    """By how much the process grows: tracing each allocation would take an hour."""
    before = _resident()
    made = history(layers, steps)
    grown = _resident() - before
    del made
    return grown / 1e6


def _resident() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


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

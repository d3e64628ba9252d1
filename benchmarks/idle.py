"""What a module's hook costs in a step that is not sampled: python benchmarks/idle.py [--modules 50].

The hooks are on, as they are in dense phases; between two samples of a simple loop they are off and cost nothing.
"""

from __future__ import annotations

import argparse
from time import perf_counter

import numpy as np
import torch
from torch import nn

import netdoctor

BAR = 1.5  # µs a module


def microseconds(modules: int, rounds: int = 400) -> tuple[float, float, float]:
    """Median of what a forward pass takes longer, by module, and its 95 % bootstrap interval; passes alternate."""
    torch.set_num_threads(1)
    plain, watched = (nn.Sequential(*(nn.Linear(8, 8) for _ in range(modules))) for _ in range(2))
    monitor = netdoctor.watch(watched, reporters=[])
    monitor._recorder._activations.begin(False)
    x = torch.randn(4, 8)
    differences = []
    for _ in range(rounds):
        taken = []
        for model in (plain, watched):
            start = perf_counter()
            model(x)
            taken.append(perf_counter() - start)
        differences.append((taken[1] - taken[0]) / modules * 1e6)
    monitor.close()
    picks = np.random.default_rng(0).choice(differences[20:], (2000, rounds - 20))
    low, high = np.percentile(np.median(picks, 1), (2.5, 97.5))
    return float(np.median(differences[20:])), float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", type=int, default=50)
    middle, low, high = microseconds(parser.parse_args().modules)
    print(f"{middle:.2f} µs a module [{low:.2f}, {high:.2f}] (bar {BAR})")


if __name__ == "__main__":
    main()

"""How good is the rate that `netdoctor.find_lr` suggests, beside the best of a grid of 12?

On eight problems each rate of the grid and the suggestion trains the same number of steps from the same seeds. What
counts is how far the loss on the training data falls: the suggestion should reach 95 % of what the best rate does.

    python benchmarks/lr_finder.py [--seeds 2] [--problems GRU …]
"""

from __future__ import annotations

import argparse
import sys
from statistics import mean
from time import perf_counter

import numpy as np
import torch

import netdoctor
from benchmarks.lr_problems import PROBLEMS, Problem, train

GRID = 12
BAR = 0.95  # of the best rate's fall of the loss


def measure(problem: Problem, seeds: int) -> float:
    """Share of the best rate's fall that the suggestion reaches; prints a line."""
    grid = [float(rate) for rate in np.geomspace(*problem.rates, GRID)]
    falls = {rate: mean(_fall(problem, seed, rate) for seed in range(seeds)) for rate in grid}
    best = max(falls, key=lambda rate: falls[rate])
    rates, reached, seconds = [], [], 0.0
    for seed in range(seeds):
        model, optimizer, loader = problem.build(seed)
        start = perf_counter()
        curve = netdoctor.find_lr(model, loader, problem.loss_fn, optimizer, progress=False)
        seconds += perf_counter() - start
        rates.append(curve.suggestion)
        reached.append(0.0 if curve.suggestion is None else _fall(problem, seed, curve.suggestion))
    share = mean(reached) / falls[best]
    named = ", ".join("none" if rate is None else f"{rate:.2g}" for rate in rates)
    print(
        f"{problem.name:45} best of grid {best:8.2g}  suggested {named:20} {share:6.1%} of its fall, "
        f"{seconds / seeds:.1f} s a search",
        flush=True,
    )
    return share


def _fall(problem: Problem, seed: int, rate: float) -> float:
    before, after = train(problem, seed, rate)
    return before - after


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--problems", nargs="*", default=[""], metavar="PART", help="of the problems' names")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [problem for problem in PROBLEMS if any(part in problem.name for part in arguments.problems)]
    shares = [measure(problem, arguments.seeds) for problem in chosen]
    good = sum(share >= BAR for share in shares)
    print(f"{good} of {len(shares)} problems within 5 % of the best of {GRID} rates")
    return len(shares) - good


if __name__ == "__main__":
    sys.exit(main())

"""What a checkup of a 100-layer model takes, in forward and backward passes: python benchmarks/checkup.py."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
from torch import nn

import netdoctor
from benchmarks.models import mlp

PASSES, SECONDS = 2, 0.5  # bar: so many passes and so many seconds on top


def seconds(run: Callable[[], object], rounds: int) -> float:
    """Median."""
    taken = []
    for _ in range(rounds):
        start = perf_counter()
        run()
        taken.append(perf_counter() - start)
    return median(taken)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--layers", type=int, default=100, help="linear ones (default 100)")
    layers = parser.parse_args().layers
    torch.manual_seed(0)
    model, x, y = mlp(256, layers - 1, 256)
    optimizer, loss_fn = torch.optim.SGD(model.parameters(), 1e-3), nn.CrossEntropyLoss()

    def step() -> None:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()

    one = seconds(step, 11)
    taken = seconds(lambda: netdoctor.checkup(model, (x, y), loss_fn, optimizer), 5)
    bar = PASSES * one + SECONDS
    print(f"{layers} layers: {taken:.2f} s a checkup, {one:.3f} s a forward and backward pass (bar {bar:.2f} s)")


if __name__ == "__main__":
    main()

"""How the cost of a sampled step grows with depth, width, batch and parameters: python benchmarks/scaling.py.

The cost is netdoctor's own time on the host in a sampled step, decoding every 32nd step included, its mean over the
steps; on a CPU all its work is done then. What a sample adds to the rest of the step is in `overhead.py`.
"""

from __future__ import annotations

import argparse
import gc
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from unittest import mock

import numpy as np
import torch

import netdoctor
from benchmarks.models import Case, mlp

WARM_UP = 70  # steps before counting: the targets of the first 64 batches are looked at, too


@dataclass(frozen=True)
class Series:
    """Costs along one axis: what grows, its values, and the seconds of a sampled step at each."""

    axis: str
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    note: str


def cost(case: Case, samples: int = 64) -> float:
    """Mean seconds that netdoctor spends in a sampled step, judging by the rules left out."""
    model, x, y = case
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    monitor = netdoctor.watch(model, reporters=[], rules=[], every=1)
    with mock.patch.object(monitor._schedule, "tick", side_effect=lambda own, *_: own) as tick:
        for _ in range(WARM_UP + samples):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    monitor.close()
    return float(np.mean([call.args[0] for call in tick.call_args_list[WARM_UP:]]))


def series(axis: str, sizes: tuple[int, ...], make: Callable[[int], Case], note: str, samples: int) -> Series:
    seconds = []
    for size in sizes:
        torch.manual_seed(0)
        seconds.append(cost(make(size), samples))
        gc.collect()
    return Series(axis, sizes, tuple(seconds), note)


def all_series(samples: int = 64) -> Iterator[Series]:
    yield series("layers", (10, 30, 100, 300, 1000), lambda n: mlp(64, n // 2), "MLP of width 64", samples)
    yield series("width", (64, 256, 1024, 2048), lambda n: mlp(n, 4), "MLP of 4 layers, batch 64", samples)
    yield series("batch", (1, 16, 64, 256, 512, 1024, 2048, 4096), lambda n: mlp(256, 4, n), "MLP 4x256", samples)
    yield series("million parameters", (1, 10, 100, 300), _of_size, "MLP of 4 layers, batch 8", samples)


def _of_size(millions: int) -> Case:
    return mlp(math.isqrt(millions * 250_000), 4, 8)


def slope_per_layer(layers: Series) -> float:
    """Seconds a layer, least squares over the sizes."""
    return float(np.polyfit(layers.sizes, layers.seconds, 1)[0])


def growth_per_doubling(batches: Series, from_batch: int = 256) -> float:
    """Relative growth of the cost when the batch doubles, from 256 on: slope of log2 against log2."""
    chosen = [(b, s) for b, s in zip(batches.sizes, batches.seconds, strict=True) if b >= from_batch]
    slope = np.polyfit(np.log2([b for b, _ in chosen]), np.log2([s for _, s in chosen]), 1)[0]
    return float(2**slope - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=64)
    for each in all_series(parser.parse_args().samples):
        print(f"{each.axis} ({each.note})")
        for size, seconds in zip(each.sizes, each.seconds, strict=True):
            print(f"  {size:6} {seconds * 1e3:8.2f} ms")
        if each.axis == "layers":
            print(f"  {slope_per_layer(each) * 1e6:.1f} µs a layer (bar 40)")
        if each.axis == "batch":
            print(f"  {growth_per_doubling(each):+.1%} when the batch doubles, from 256 on (bar 5 %)")


if __name__ == "__main__":
    main()

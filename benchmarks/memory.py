"""Whether the memory of a long watched run stays flat: what Python holds (tracemalloc) and the process (RSS).

    python benchmarks/memory.py             # 10,000 steps watched by default, and 10,000 that are all sampled
    python benchmarks/memory.py --every 0   # the first alone

Both are read when the run has made 500 steps and every 500 steps from then on. The bar is ±5 MB from the first reading.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import resource
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netdoctor

EVERY = 500  # steps between two readings
BAR = 5.0  # MB


@dataclass(frozen=True)
class Reading:
    """Megabytes after so many steps."""

    step: int
    python: float
    process: float


def run(steps: int, reporters: list[Any] | None = None, **watching: Any) -> Iterator[Reading]:
    """Train a small network for so many steps, with a validation now and then; at intervals the memory in use."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), *_middle(6), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    x, y = torch.randn(4096, 32), torch.randint(0, 10, (4096,))
    tracemalloc.start()
    with netdoctor.watch(model, reporters=reporters or [], **watching):
        for step in range(1, steps + 1):
            chosen = torch.randint(len(x), (32,))
            F.cross_entropy(model(x[chosen]), y[chosen]).backward()
            optimizer.step()
            optimizer.zero_grad()
            if step % 250 == 0:
                _validate(model, x, y)
            if step % EVERY == 0:
                yield Reading(step, *_in_use())
    tracemalloc.stop()


def growth(readings: list[Reading]) -> tuple[float, float]:
    """By how much memory was furthest from the first reading, in MB: Python's and the process's."""
    first = readings[0]
    python = max((reading.python - first.python for reading in readings), key=abs)
    return python, max((reading.process - first.process for reading in readings), key=abs)


def _middle(blocks: int) -> list[nn.Module]:
    return [layer for _ in range(blocks) for layer in (nn.Linear(64, 64), nn.ReLU())]


def _validate(model: nn.Module, x: Tensor, y: Tensor) -> None:
    model.eval()
    with torch.no_grad():
        F.cross_entropy(model(x[:256]), y[:256])
    model.train()


def _in_use() -> tuple[float, float]:
    """Python's objects and the process's resident memory, in MB, after what is free was given back."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return tracemalloc.get_traced_memory()[0] / 2**20, _resident() / 2**20


def _resident() -> int:
    """Bytes; the peak where the system tells no more."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument(
        "--every", type=int, help="steps between samples, 0 for what the budget gives; by default 0 and 1"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    failed = False
    for every in (0, 1) if given.every is None else (given.every,):
        watching: dict[str, Any] = {"every": every} if every else {}
        print(f"\nsampled every {every} steps" if every else "\nby default")
        print(f"{'step':>8}{'Python MB':>12}{'process MB':>12}")
        readings = []
        for reading in run(given.steps, **watching):
            readings.append(reading)
            if reading.step % (EVERY * 4) == 0 or len(readings) == 1:
                print(f"{reading.step:>8,}{reading.python:>12.2f}{reading.process:>12.1f}", flush=True)
        python, process = growth(readings)
        failed |= max(abs(python), abs(process)) > BAR
        print(f"furthest from step {EVERY}: Python {python:+.2f} MB, process {process:+.2f} MB (bar ±{BAR:g} MB)")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

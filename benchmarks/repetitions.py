"""Trains with two processes again and again: does anything ever hang, or differ? ``python -m benchmarks.repetitions``.

A training that takes longer than a minute counts as hung, and ends the command with its fault.
"""

from __future__ import annotations

import argparse
from time import perf_counter
from typing import Any

from tests.distributed import ddp, sharded
from tests.distributed.processes import ranks

STEPS = 6
EVERY_STEP = {"every": 1}
TRAININGS: dict[str, tuple[Any, ...]] = {
    "DDP": (ddp.train_watched, STEPS, EVERY_STEP),
    "DDP, by default": (ddp.train_watched, STEPS, {}),
    "DDP, accumulated": (ddp.accumulate_watched, STEPS),
    "DDP, numbers that come late": (ddp.train_with_late_numbers, STEPS),
    "DDP, uneven costs": (ddp.train_unevenly, 30),
    "DDP, watched on the first rank": (ddp.watch_on_first, STEPS),
    "DDP, a rank that closes early": (ddp.leave_early, STEPS),
    "fully_shard": (sharded.fully_sharded, STEPS, EVERY_STEP),
    "tensor parallel": (sharded.tensor_parallel, STEPS, EVERY_STEP),
}


def main() -> None:
    """Print the longest of each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=50, help="times (default 50)")
    repeat = parser.parse_args().repeat
    longest = dict.fromkeys(TRAININGS, 0.0)
    with ranks(2) as two:
        for _ in range(repeat):
            for name, (function, *arguments) in TRAININGS.items():
                start = perf_counter()
                two.run(function, *arguments)
                longest[name] = max(longest[name], perf_counter() - start)
    print(f"{repeat} repetitions of {len(TRAININGS)} trainings of two processes, no hang; the longest of each:")
    for name, seconds in longest.items():
        print(f"  {name:32} {seconds:5.1f} s")


if __name__ == "__main__":
    main()

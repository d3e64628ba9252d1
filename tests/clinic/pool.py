"""Runs in worker processes of one thread each: their timing, and so netdoctor's schedule, stays undisturbed."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

import torch

Task = TypeVar("Task")
Outcome = TypeVar("Outcome")


def each(function: Callable[[Task], Outcome], tasks: Iterable[Task], jobs: int = 2) -> Iterator[tuple[Task, Outcome]]:
    """Every task with its outcome, as they come in."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "sklearn.datasets", "scipy.stats"])
    with ProcessPoolExecutor(jobs, context, _prepare) as pool:
        futures = {pool.submit(function, task): task for task in tasks}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _prepare() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "Using a target size")  # torch's own word on a silent broadcast

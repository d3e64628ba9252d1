"""Processes that train together: each keeps its interpreter between tests, and joins a new process group in each."""

from __future__ import annotations

import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from queue import Empty
from typing import Any

import torch
from torch import multiprocessing


class Ranks:
    """So many processes; `run` calls a function of a module in all of them."""

    def __init__(self, world: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.world = world
        self._asked = [context.Queue() for _ in range(world)]
        self._told = [context.Queue() for _ in range(world)]
        self.processes = [
            context.Process(target=_serve, args=(rank, world, self._asked[rank], self._told[rank]), daemon=True)
            for rank in range(world)
        ]
        for process in self.processes:
            process.start()

    def run(self, function: Callable[..., Any], *args: Any, seconds: float = 60) -> list[Any]:
        """What ``function(rank, *args)`` returns on each rank; fails where a rank fails or takes longer than that."""
        port = free_port()
        for asked in self._asked:
            asked.put((function, args, port))
        answers = [self.answer(rank, seconds) for rank in range(self.world)]
        failed = [f"rank {rank}: {fault}" for rank, (_, fault) in enumerate(answers) if fault]
        assert not failed, "\n".join(failed)
        return [result for result, _ in answers]

    def start(self, function: Callable[..., Any], *args: Any) -> None:
        """`run` without waiting; `answer` waits for one rank."""
        port = free_port()
        for asked in self._asked:
            asked.put((function, args, port))

    def answer(self, rank: int, seconds: float) -> tuple[Any, str]:
        """What a rank returned, and how it failed."""
        try:
            answer: tuple[Any, str] = self._told[rank].get(timeout=seconds)
        except Empty:
            return None, f"no answer within {seconds} s"
        return answer

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()


@contextmanager
def ranks(world: int) -> Iterator[Ranks]:
    started = Ranks(world)
    try:
        yield started
    finally:
        started.end()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def _serve(rank: int, world: int, asked: Any, told: Any) -> None:
    torch.set_num_threads(1)
    distributed = torch.distributed
    while (task := asked.get()) is not None:
        function, args, port = task
        result, fault = None, ""
        try:
            distributed.init_process_group(
                "gloo",
                init_method=f"tcp://127.0.0.1:{port}",
                rank=rank,
                world_size=world,
                timeout=timedelta(seconds=30),
            )
            result = function(rank, *args)
            if distributed.is_initialized():
                distributed.barrier()
        except Exception:  # noqa: BLE001  # the test tells of it
            fault = traceback.format_exc()
        finally:
            if distributed.is_initialized():
                distributed.destroy_process_group()
        told.put((result, fault))

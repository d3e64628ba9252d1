"""Trainings under DistributedDataParallel, as each rank runs them."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import netdoctor
from netdoctor.probes.transfer import Transfer
from netdoctor.reporters import Report
from tests.distributed import trainings


def wrapped() -> DistributedDataParallel:
    return DistributedDataParallel(trainings.network())


def batches(rank: int, steps: int) -> list[tuple[Tensor, Tensor]]:
    return trainings.batches(steps, rank, torch.distributed.get_world_size())


def train_watched(rank: int, steps: int, options: dict[str, Any], inside: bool = False) -> dict[str, Any]:
    """``inside``: the model is watched before it is wrapped."""
    if inside:
        model = trainings.network()
        monitor = netdoctor.watch(model, reporters=[], **options)
        parallel = DistributedDataParallel(model)
    else:
        parallel = wrapped()
        monitor = netdoctor.watch(parallel, reporters=[], **options)
    with monitor:
        trainings.train(parallel, batches(rank, steps))
    return trainings.seen(monitor)


def train_with_late_numbers(rank: int, steps: int) -> dict[str, Any]:
    """As from a device: what was sampled is on the host some steps later, on each rank after another time."""
    asked: Counter[int] = Counter()

    def ready(transfer: Transfer) -> bool:
        asked[id(transfer)] += 1
        return asked[id(transfer)] > 1 + 2 * rank

    with mock.patch.object(Transfer, "ready", property(ready)):
        return train_watched(rank, steps, {"every": 1})


def accumulated(model: nn.Module, data: list[tuple[Tensor, Tensor]]) -> None:
    """Two batches a step, the first without an exchange of gradients."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for place, (x, y) in enumerate(data):
        last = place % 2 == 1
        with nullcontext() if last or not isinstance(model, DistributedDataParallel) else model.no_sync():
            (F.cross_entropy(model(x), y) / 2).backward()
        if last:
            optimizer.step()
            optimizer.zero_grad()


def accumulate_watched(rank: int, steps: int) -> dict[str, Any]:
    model = wrapped()
    with netdoctor.watch(model, reporters=[], every=1) as monitor:
        accumulated(model, batches(rank, 2 * steps))
    return trainings.seen(monitor)


def train_unevenly(rank: int, steps: int) -> list[int]:
    """Netdoctor takes other times on each rank; the steps that were sampled."""
    model = wrapped()
    with netdoctor.watch(model, reporters=[], budget=0.05) as monitor:

        def after(step: int) -> None:
            time.sleep(0.002 * rank)
            monitor._schedule.sampling._costs.append(0.01 if rank == step % 2 else 0.0001)

        trainings.train(model, batches(rank, steps), after)
    return [int(step) for step in monitor.history.table("gradient_rms").steps]


def change_by_hand(rank: int, steps: int, name: str, at: int) -> dict[str, Any]:
    """On the last rank one element of a parameter is changed after a step."""
    model = wrapped()

    def after(step: int) -> None:
        if step == at and rank == torch.distributed.get_world_size() - 1:
            with torch.no_grad():
                model.module.get_parameter(name).view(-1)[-1] += 0.01

    with netdoctor.watch(model, reporters=[], every=1) as monitor:
        trainings.train(model, batches(rank, steps), after)
    return trainings.seen(monitor)


def watch_on_first(rank: int, steps: int) -> dict[str, Any] | None:
    model = wrapped()
    monitor = netdoctor.watch(model, reporters=[]) if rank == 0 else None
    trainings.train(model, batches(rank, steps))
    if monitor is None:
        return None
    start = time.perf_counter()
    monitor.close()
    return trainings.seen(monitor) | {"seconds": time.perf_counter() - start}


def watch_again(rank: int, steps: int) -> dict[str, Any]:
    """Only the first rank watches, and then all of them."""
    watch_on_first(rank, 2)  # too short to find out that it is alone
    watch_on_first(rank, steps)
    return train_watched(rank, steps, {"every": 1})


class Told:
    """A reporter that counts."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def report(self, report: Report) -> None:
        self.calls.append("report")

    def close(self, report: Report) -> None:
        self.calls.append("close")


def tell(rank: int, steps: int) -> list[str]:
    reporter = Told()
    model = wrapped()
    monitor = netdoctor.watch(model, reporters=[reporter])
    trainings.train(model, batches(rank, steps))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()  # as programs do before their monitors are closed at exit
    monitor.close()
    return reporter.calls


def parameters(rank: int, steps: int, watched: bool, make: Callable[[], nn.Module] = wrapped) -> list[Any]:
    """The parameters after a training, watched or not."""
    model = make()
    monitor = netdoctor.watch(model, reporters=[], every=2) if watched else None
    trainings.train(model, batches(rank, steps))
    if monitor is not None:
        assert not monitor.faults
        monitor.close()
    local = [getattr(parameter, "to_local", lambda p=parameter: p)() for parameter in model.parameters()]
    return [tensor.detach().numpy().copy() for tensor in local]


def leave_early(rank: int, steps: int) -> dict[str, Any]:
    """The last rank closes its monitor in the middle of the training."""
    model = wrapped()
    monitor = netdoctor.watch(model, reporters=[], every=1)
    last = rank == torch.distributed.get_world_size() - 1
    trainings.train(model, batches(rank, steps), lambda step: monitor.close() if last and step == steps // 2 else None)
    monitor.close()
    return trainings.seen(monitor)


def die(rank: int, at: int) -> dict[str, float]:
    """Rank 1 dies in the middle of step ``at``; how long the others are in netdoctor from then on."""
    model = wrapped()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    monitor = netdoctor.watch(model, optimizer, reporters=[], every=1)
    start = 0.0
    for step, (x, y) in enumerate(batches(rank, at), 1):
        F.cross_entropy(model(x), y).backward()
        if rank == 1 and step == at:
            os._exit(1)  # the others have its gradients, and will not have its sample
        start = time.perf_counter()
        optimizer.step()
    if rank == 0:
        monitor.diagnose()
    else:
        optimizer.step()  # with the same gradients: a backward pass would fail
    monitor.close()
    return {"after": time.perf_counter() - start, "steps": float(len(monitor.history.table("gradient_rms")))}

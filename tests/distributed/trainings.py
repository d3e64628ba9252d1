"""Trainings that are the same on one process and on several: each rank takes its part of the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netdoctor
from netdoctor.history import History

BATCH = 16
CLASSES = 5


class Network(nn.Module):
    """A convolution, a norm, and weights of which some are larger than what is sampled of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 2)
        self.fc1 = nn.Linear(6, 72)
        self.norm = nn.LayerNorm(72)
        self.act = nn.Tanh()
        self.fc2 = nn.Linear(72, 12)
        self.out = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv(x)).flatten(1)
        out: Tensor = self.out(F.relu(self.fc2(self.act(self.norm(self.fc1(h))))))
        return out


def network() -> Network:
    torch.manual_seed(3)
    return Network()


def batches(steps: int, rank: int = 0, world: int = 1) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(11)
    made = []
    for _ in range(steps):
        x = torch.randn(BATCH, 3, 2, 2, generator=generator)
        y = torch.randint(CLASSES, (BATCH,), generator=generator)
        mine = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
        made.append((x[mine], y[mine]))
    return made


def train(model: nn.Module, data: list[tuple[Tensor, Tensor]], after: Callable[[int], object] = int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step, (x, y) in enumerate(data, 1):
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        after(step)


def tables(history: History) -> dict[str, Any]:
    """What of a history can be sent from one process to another."""
    found = {}
    for name in history.statistics:
        table = history.table(name)
        found[name] = (table.columns, np.array(table.steps), np.array(table.values))
    return found


def seen(monitor: netdoctor.Monitor) -> dict[str, Any]:
    """What a closed monitor has to tell, for another process."""
    reasons = [skipped.reason for skipped in monitor.diagnose().skipped]
    return {
        "tables": tables(monitor.history),
        "faults": monitor.faults,
        "findings": [(finding.rule, finding.layers, finding.message) for finding in monitor.findings],
        "alone": [reason for reason in reasons if "this rank alone" in reason],
    }


def in_one_process(steps: int, **options: Any) -> dict[str, Any]:
    model = network()
    with netdoctor.watch(model, reporters=[], **options) as monitor:
        train(model, batches(steps))
    return tables(monitor.history)

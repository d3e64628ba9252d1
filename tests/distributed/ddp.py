"""Trainings under DistributedDataParallel, as each rank runs them."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

import netdoctor
from tests.distributed import trainings


def train_watched(rank: int, steps: int, options: dict[str, Any]) -> dict[str, Any]:
    model = DistributedDataParallel(trainings.network())
    data = trainings.batches(steps, rank, torch.distributed.get_world_size())
    with netdoctor.watch(model, reporters=[], **options) as monitor:
        trainings.train(model, trainings.sgd(model), data, lambda step: None)
    return trainings.seen(monitor)

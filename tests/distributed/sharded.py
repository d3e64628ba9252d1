"""Trainings under `fully_shard` and `parallelize_module`, as each rank runs them."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import netdoctor
from tests.distributed import trainings


def wholly() -> Any:
    model = trainings.network()
    fully_shard(model.fc1)
    return fully_shard(model)


def by_layers() -> Any:
    """Split into layers, in which all ranks see the same samples."""
    model = trainings.network()
    plan = {"fc1": ColwiseParallel(output_layouts=Replicate()), "fc2": ColwiseParallel(), "out": RowwiseParallel()}
    return parallelize_module(model, init_device_mesh("cpu", (torch.distributed.get_world_size(),)), plan)


def fully_sharded(rank: int, steps: int, options: dict[str, Any], how: str = "") -> dict[str, Any]:
    model = trainings.network()
    given: dict[str, Any] = {}
    if "bfloat16" in how:
        given["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    if "offload" in how:
        given["offload_policy"] = CPUOffloadPolicy(pin_memory=False)
    if "early" in how:
        monitor = netdoctor.watch(model, reporters=[], **options)
    if "hybrid" in how:
        given["mesh"] = init_device_mesh(
            "cpu", (2, torch.distributed.get_world_size() // 2), mesh_dim_names=("copies", "shards")
        )
    for layer in (model.conv, model.fc1, model.fc2):
        fully_shard(layer, **given)
    fully_shard(model, **given)
    if "early" not in how:
        monitor = netdoctor.watch(model, reporters=[], **options)
    data = trainings.batches(steps, rank, torch.distributed.get_world_size())
    with monitor:
        trainings.train(model, data)
    return trainings.seen(monitor)


def tensor_parallel(rank: int, steps: int, options: dict[str, Any], how: str = "") -> dict[str, Any]:
    model: Any = trainings.network()
    world = torch.distributed.get_world_size()
    if how:
        mesh = init_device_mesh("cpu", (world // 2, 2), mesh_dim_names=("data", "layers"))
        data = trainings.batches(steps, mesh["data"].get_local_rank(), world // 2)
        layers = mesh["layers"]
    else:
        layers = init_device_mesh("cpu", (world,))
        data = trainings.batches(steps)
    parallelize_module(
        model,
        layers,
        {"fc1": ColwiseParallel(output_layouts=Replicate()), "fc2": ColwiseParallel(), "out": RowwiseParallel()},
    )
    if "fully_shard" in how:
        fully_shard(model.fc1, mesh=mesh["data"])
        fully_shard(model, mesh=mesh["data"])
    with netdoctor.watch(model, reporters=[], **options) as monitor:
        trainings.train(model, data)
    return trainings.seen(monitor)

"""Which of several processes this is, and whether all of them watch the same model.

They agree through the key-value store that `torch.distributed` keeps anyhow. Nobody waits for anybody: who watches on
one rank alone asks, gets no answer, and goes on alone.
"""

from __future__ import annotations

import hashlib
import os
from datetime import timedelta
from typing import Any

import torch
from torch import nn

PATIENCE = 30.0  # seconds that a reduction may take: all ranks begin it at the end of the same step
DECIDED = 3  # steps after which it is known who watches

_rank: int | None = None  # the last one that was known: programs destroy their process group before the end


def rank() -> int:
    """Of this process among those that train together; 0 where it is alone."""
    global _rank
    if initialized():
        _rank = int(torch.distributed.get_rank())
    if _rank is not None:
        return _rank
    given = os.environ.get("RANK", "0")  # of torchrun
    return int(given) if given.isdigit() else 0


def world() -> int:
    """How many processes train together."""
    return int(torch.distributed.get_world_size()) if initialized() else 1


def initialized() -> bool:
    """Whether `torch.distributed` knows of other processes."""
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized()


def enclosing() -> nn.Module | None:
    """The DistributedDataParallel whose forward pass runs now."""
    return getattr(nn.parallel.DistributedDataParallel, "_active_ddp_module", None)


def apart(model: nn.Module, parallel: nn.Module | None) -> str:
    """Why the ranks do not train one model together, as far as can be told; "" where they do.

    Args:
        model: The watched model.
        parallel: The DistributedDataParallel around it, if it has one.
    """
    meshes = {p.device_mesh.size() for p in model.parameters() if hasattr(p, "device_mesh")}
    if parallel is None and not meshes:
        return "neither DistributedDataParallel nor fully_shard or parallelize_module holds the model"
    if getattr(getattr(parallel, "_join_config", None), "enable", False):
        return "ranks with uneven inputs (join) do not all make the same steps"
    group: Any = getattr(parallel, "process_group", None)
    largest, replicas = max(meshes, default=1), 1 if group is None else group.size()
    shared = world() in (largest, replicas, largest * replicas)
    return "" if shared else "not every rank shares the model"


class Agreement:
    """One question to the other ranks: do you watch this model, too?

    A rank counts itself in at its first step. At its third, whoever comes first writes down whether all are in, and
    everybody reads that: no two ranks go by different answers. Ranks that exchange gradients are at most a step apart.

    Args:
        layout: What has to be the same on all ranks.

    Attributes:
        group: What to exchange numbers in, once all have agreed; None before, and where they have not.
        asking: Whether it is not decided yet.
    """

    def __init__(self, layout: str) -> None:
        self.group: Any = None
        self.asking = True
        self._steps = 0
        self._store = _store()
        self._key = f"netdoctor/{hashlib.sha256(layout.encode()).hexdigest()[:16]}"
        self._round = ""

    def step(self) -> None:
        """A step has ended, one of the first three."""
        store = self._store
        self._steps += 1
        if store is None:
            self.asking = False
        elif self._steps == 1:
            self._round = f"{self._key}/{store.add(f'{self._key}/rounds', 0)}"  # models may be watched again
            if store.add(f"{self._round}/{rank()}", 1) == 1:
                store.add(f"{self._round}/watching", 1)
        elif self._steps == DECIDED:
            self.asking = False
            verdict = "together" if store.add(f"{self._round}/watching", 0) == world() else "alone"
            if store.add(f"{self._round}/deciding", 1) == 1:
                store.add(f"{self._key}/rounds", 1)
            if store.compare_set(f"{self._round}/verdict", "", verdict) == b"together":
                self.group = self._connect()

    def _connect(self) -> Any:
        """A group of netdoctor's own, which no other group's order of calls depends on: gloo, for it is on the host."""
        distributed: Any = torch.distributed
        store = distributed.PrefixStore(f"{self._round}/group", self._store)
        return distributed.ProcessGroupGloo(store, rank(), world(), timedelta(seconds=PATIENCE))


def _store() -> Any:
    try:
        return torch.distributed.distributed_c10d._get_default_store()  # none of the public functions gives it
    except Exception:  # noqa: BLE001  # a private name
        return None

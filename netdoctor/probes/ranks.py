"""Which of several processes this is, and whether all of them watch the same model.

They agree through the key-value store that `torch.distributed` keeps anyhow. Nobody waits for anybody: who watches on one
rank alone asks, gets no answer, and goes on alone.

A rank counts itself in at its first step. At its second step it votes if all are counted in; at its third, whoever comes
first writes down whether all have voted, and everybody reads that. In a training whose ranks exchange gradients no rank
is more than one step ahead, so all have voted by then; in any other, no two ranks read a different answer.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections import Counter
from datetime import timedelta
from typing import Any

import torch
from torch import nn

PATIENCE = 60.0  # seconds in which the ranks must have made a group of their own once they have agreed
DECIDED = 3  # steps after which it is known


def rank() -> int:
    """Of this process among those that train together; 0 where it is alone."""
    if initialized():
        return int(torch.distributed.get_rank())
    given = os.environ.get("RANK", "0")  # of torchrun
    return int(given) if given.isdigit() else 0


def world() -> int:
    """How many processes train together."""
    return int(torch.distributed.get_world_size()) if initialized() else 1


def initialized() -> bool:
    """Whether `torch.distributed` knows of other processes."""
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized()


_asked: Counter[str] = Counter()  # how often each question was asked in this process


class Agreement:
    """One question to the other ranks: do you watch this model, too?

    Args:
        layout: What has to be the same on all ranks.

    Attributes:
        group: What to exchange numbers in, once all have agreed; None before, and where they have not.
        asking: Whether it is not decided yet.
    """

    def __init__(self, layout: str) -> None:
        digest = hashlib.sha256(layout.encode()).hexdigest()[:16]
        self.group: Any = None
        self.asking = True
        self._steps = 0
        self._ranks = world()
        self._store = _store()
        self._key = f"netdoctor/{digest}/{_asked[digest]}"
        _asked[digest] += 1

    def step(self) -> None:
        """A step has ended, one of the first three."""
        store, key = self._store, self._key
        self._steps += 1
        if store is None:
            self.asking = False
        elif self._steps == 1:
            store.add(f"{key}/watching", 1)
        elif self._steps == 2:
            if store.add(f"{key}/watching", 0) == self._ranks:
                store.add(f"{key}/votes", 1)
        else:
            answer = "together" if store.add(f"{key}/votes", 0) == self._ranks else "apart"
            self.asking = False
            if store.compare_set(f"{key}/answer", "", answer) == b"together":
                self.group = torch.distributed.new_group(backend="gloo", timeout=timedelta(seconds=PATIENCE))

    def leave(self) -> None:
        """Exchange nothing any more."""
        group, self.group, self.asking = self.group, None, False
        if group is not None and initialized():
            torch.distributed.destroy_process_group(group)


def _store() -> Any:
    home: Any = sys.modules.get("torch.distributed.distributed_c10d")
    try:
        return home._get_default_store()
    except Exception:  # noqa: BLE001  # none of the public functions gives it
        return None


def shares_training(model: nn.Module, parallel: nn.Module | None) -> str:
    """Why the ranks do not train this model together as far as can be told; "" where they do.

    Args:
        model: The watched model.
        parallel: The DistributedDataParallel around it, if it has one.
    """
    sharded = [p for p in model.parameters() if hasattr(p, "device_mesh")]
    if parallel is None and not sharded:
        return "neither DistributedDataParallel nor fully_shard or parallelize_module holds the model"
    joining = getattr(getattr(parallel, "_join_config", None), "enable", False)
    if joining:
        return "ranks with uneven inputs (join) do not all make the same steps"
    group: Any = getattr(parallel, "process_group", None)
    sizes = {p.device_mesh.size() for p in sharded} | ({group.size()} if group is not None else set())
    return "" if sizes == {world()} else "only some of the ranks share the model"

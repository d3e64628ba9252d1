"""A few numbers of some layers or parameters by name, on their way to the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from netdoctor.history import History
from netdoctor.probes.transfer import Transfer, together


@dataclass(frozen=True)
class Named:
    """The numbers of each column: ``statistics`` are rows of the table of statistics, ``numbers`` [columns, rows]."""

    statistics: tuple[str, ...]
    columns: tuple[str, ...]
    numbers: Transfer

    @property
    def ready(self) -> bool:
        """Whether the numbers have arrived on the host."""
        return self.numbers.ready

    def record(self, history: History, step: int) -> None:
        """Move them into the history."""
        for statistic, values in zip(self.statistics, self.numbers.numpy().T, strict=True):
            history.record(step, statistic, values, self.columns)


def named(statistics: tuple[str, ...], found: Mapping[str, tuple[Tensor, ...]]) -> Named | None:
    """0-d tensors of each column, one a statistic; None where there are none."""
    if not found:
        return None
    rows = [torch.stack(values).float() for values in found.values()]
    return Named(statistics, tuple(found), Transfer(together(rows)))

"""Pitfall 19: activation checkpoints run their layers twice; each is sampled once, with the same numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.twins import faults, same, silent


class Checkpointed(nn.Module):
    """Its middle is computed again in the backward pass, in one of the two ways, or is not (None)."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.first = nn.Linear(12, 16)
        self.middle = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 16))
        self.head = nn.Linear(16, 4)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.middle(x) if self.reentrant is None else checkpoint(self.middle, x, use_reentrant=self.reentrant)
        out: Tensor = self.head(x)
        return out


def run(reentrant: bool | None, watched: bool = True, passes: int = 1) -> tuple[list[Tensor], Any]:
    torch.manual_seed(0)
    model = Checkpointed(reentrant)
    monitor = silent(model, every=1) if watched else None
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(4):
        for _ in range(passes):
            F.cross_entropy(model(torch.randn(8, 12)), torch.randint(0, 4, (8,))).backward()
        optimizer.step()
        optimizer.zero_grad()
    if monitor is not None:
        monitor.close()
    return [p.detach() for p in model.parameters()], monitor


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("reentrant", [False, True])
def test_statistics_are_those_without_checkpoints(reentrant: bool, passes: int) -> None:
    (_, expected), (weights, monitor) = run(None, passes=passes), run(reentrant, passes=passes)
    assert same(run(reentrant, watched=False, passes=passes)[0], weights)
    for name in expected.history.statistics:
        table, other = expected.history.table(name), monitor.history.table(name)
        assert table.columns == other.columns, name
        if not (reentrant and name.startswith("saturated")):
            assert table.values == pytest.approx(other.values, nan_ok=True), name


def test_what_a_reentrant_checkpoint_hides_is_found_by_the_values() -> None:
    monitor, expected = run(True)[1], run(None)[1]
    assert faults(monitor) == faults(run(False)[1]) == []
    assert [replace(layer, straight=False, dropouts=()) for layer in expected.history.facts.layers] == [
        replace(layer, straight=False, dropouts=()) for layer in monitor.history.facts.layers
    ]  # values do not tell whether all between two layers is linear
    assert {p.name for p in monitor.history.facts.parameters if p.connected is None} == {
        "middle.0.weight", "middle.0.bias", "middle.3.weight", "middle.3.bias",
    }  # fmt: skip

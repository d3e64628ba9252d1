"""A small classification and its plain loop, with which the loops of the frameworks are compared."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from netdoctor import Monitor
from tests.twins import silent

BATCH = 8
BATCHES = 8  # of an epoch


@dataclass(frozen=True)
class Setting:
    """How is trained: micro-batches of a step, the norm that gradients are clipped to."""

    accumulated: int = 1
    clipped: float | None = None


SETTINGS = {
    "usual": Setting(),
    "accumulated": Setting(accumulated=4),
    "clipped": Setting(clipped=0.1),
    "accumulated and clipped": Setting(2, 0.1),
}
each_setting = pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)


class Classifier(nn.Module):
    """One hidden layer, with the same weights each time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


def examples(seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(BATCH * BATCHES, 12, generator=generator)
    return TensorDataset(x, x[:, :4].argmax(1))


def loader(seed: int = 0) -> DataLoader[Any]:
    return DataLoader(examples(seed), batch_size=BATCH)


def plain(setting: Setting = SETTINGS["usual"], epochs: int = 2) -> tuple[list[Tensor], Monitor]:
    """Weights after the usual loop, and its monitor."""
    model = Classifier()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    with silent(model, every=1) as monitor:
        for _ in range(epochs):
            for index, (x, y) in enumerate(loader(), 1):
                (F.cross_entropy(model(x), y) / setting.accumulated).backward()
                if index % setting.accumulated == 0:
                    if setting.clipped is not None:
                        nn.utils.clip_grad_norm_(model.parameters(), setting.clipped)
                    optimizer.step()
                    optimizer.zero_grad()
    return weights(model), monitor


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach() for parameter in model.parameters()]


def assert_same_numbers(monitor: Monitor, expected: Monitor, without: Collection[str] = ()) -> None:
    """Every statistic of the plain loop is there, at the same steps, with the same readings."""
    assert monitor.step == expected.step
    assert monitor.faults == {}
    for name in set(expected.history.statistics) - set(without):
        table, other = monitor.history.table(name), expected.history.table(name)
        assert table.steps.tolist() == other.steps.tolist(), name
        assert table.columns == other.columns, name
        assert table.values == pytest.approx(other.values, rel=1e-4, abs=1e-6, nan_ok=True), name

"""Another default type or device than torch's own is the program's; what netdoctor keeps has its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.twins import faults, silent


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


def trained(dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    cpu: dict[str, Any] = {"device": "cpu", "dtype": dtype}
    block = nn.TransformerEncoderLayer(12, 2, 16, dropout=0.0, batch_first=True, **cpu)
    model = nn.Sequential(nn.Linear(12, 12, **cpu), block, nn.Flatten(), nn.Linear(24, 4, **cpu))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.linspace(-0.3, 0.3, parameter.numel(), **cpu).sin().view_as(parameter))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x = torch.linspace(-1, 1, 16 * 24, **cpu).sin().view(16, 2, 12)
    y = torch.arange(16, device="cpu") % 4
    with silent(model, every=1) as monitor:
        for _ in range(4):
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            (F.smooth_l1_loss(model(x), torch.ones(16, 4, **cpu)) + model(x).square().mean()).backward()
            optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            F.cross_entropy(model(x), y)
        assert faults(monitor) == []
    return monitor


@pytest.mark.parametrize(("default", "dtype"), [(torch.float64, torch.float64), (torch.bfloat16, torch.float32)])
def test_default_types(default: torch.dtype, dtype: torch.dtype) -> None:
    """The numbers are those under float32: in bfloat16 they would have two digits."""
    expected = trained(dtype)
    torch.set_default_dtype(default)
    monitor = trained(dtype)
    assert set(monitor.history.statistics) == set(expected.history.statistics)
    for name in expected.history.statistics:
        table, other = monitor.history.table(name), expected.history.table(name)
        assert table.values == pytest.approx(other.values, rel=1e-4, abs=1e-7, nan_ok=True), name


def test_default_devices() -> None:
    """One on which nothing has a value: what would be kept there could not be read."""
    expected = trained(torch.float32)
    torch.set_default_device("meta")
    monitor = trained(torch.float32)
    torch.set_default_device(None)
    assert monitor.history.latest("activation_rms") == expected.history.latest("activation_rms")
    assert monitor.history.latest("update_rms") == expected.history.latest("update_rms")

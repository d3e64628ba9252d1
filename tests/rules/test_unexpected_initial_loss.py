"""unexpected-initial-loss on real runs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from netdoctor.rules.unexpected_initial_loss import unexpected_initial_loss as rule
from tests.rules.training import digits, findings_of, mlp


@pytest.mark.parametrize("temperature", [0.001, 0.015, 0.1])
def test_a_temperature_that_lost_a_digit_is_named(temperature: float) -> None:
    model, images = mlp(), digits()[0][:64]

    def loss(i: int) -> Tensor:
        left, right = (F.normalize(model(images + 1.0 * torch.randn_like(images)), dim=1) for _ in range(2))
        return F.cross_entropy(left @ right.T / temperature, torch.arange(64))

    found = findings_of(rule, model, torch.optim.SGD(model.parameters(), lr=0.01), loss, 3)
    assert bool(found) == (temperature == 0.001)
    assert all("temperature of 0.001" in finding.message and finding.layers == ("4",) for finding in found)

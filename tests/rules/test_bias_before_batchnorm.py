"""bias-before-batchnorm on real runs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from netdoctor.findings import Severity
from netdoctor.rules.bias_before_batchnorm import bias_before_batchnorm as rule
from tests.rules.rounds import rounds, rows


def network(bias: bool = True, norm: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16, bias=bias), norm or nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 1))


def test_is_a_note_with_the_gradient_and_leaves_the_outputs_as_they_are() -> None:
    model = network()
    (finding,) = rounds(rule, model, rows(16, 6), steps=30)
    assert finding.severity is Severity.NOTE
    assert finding.layers == ("0",)
    assert finding.readings[1].value < 1e-6
    inputs = rows(50, 6)()[0]
    model.eval()
    before = model(inputs)
    finding.remedies[0].apply(model)
    assert "0.bias" not in dict(model.named_parameters())
    assert torch.allclose(model(inputs), before, atol=1e-6)
    assert not rounds(rule, model.train(), rows(16, 6))


def test_convolutions_with_pooling_between() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AvgPool2d(2), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 1))
    (finding,) = rounds(rule, model, lambda: (torch.randn(4, 1, 8, 8), torch.randn(4, 1)))
    assert finding.layers == ("0",)


class TwoUses(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        out: Tensor = self.last(x + self.norm(x))
        return out


HEALTHY = {
    "no bias": lambda: network(bias=False),
    "layer norm": lambda: network(norm=nn.LayerNorm(16)),
    "group norm": lambda: network(norm=nn.GroupNorm(4, 16)),
    "evaluation mode": lambda: network(norm=nn.BatchNorm1d(16).eval()),
    "used elsewhere too": TwoUses,
    "nonlinearity between": lambda: nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Linear(16, 1)),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_quiet(name: str) -> None:
    assert not rounds(rule, HEALTHY[name](), rows(16, 6))

"""dropout-before-batchnorm on real runs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from netdoctor.findings import Severity
from netdoctor.rules.dropout_before_batchnorm import dropout_before_batchnorm as rule
from tests.rules.rounds import rounds, rows


def network(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 16), *between, nn.Linear(16, 1))


SICK = {
    "directly": lambda: network(nn.Dropout(0.5), nn.BatchNorm1d(16), nn.ReLU()),
    "behind the nonlinearity": lambda: network(nn.ReLU(), nn.Dropout(0.5), nn.BatchNorm1d(16)),
    "before the nonlinearity": lambda: network(nn.Dropout(0.5), nn.ReLU(), nn.BatchNorm1d(16)),
}
HEALTHY = {
    "behind it": lambda: network(nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5)),
    "layer norm": lambda: network(nn.Dropout(0.5), nn.LayerNorm(16), nn.ReLU()),
    "weights between": lambda: network(nn.Dropout(0.5), nn.Linear(16, 16), nn.BatchNorm1d(16)),
    "probability 0": lambda: network(nn.Dropout(0.0), nn.BatchNorm1d(16), nn.ReLU()),
    "frozen": lambda: network(nn.Dropout(0.5), nn.BatchNorm1d(16).eval(), nn.ReLU()),
}


@pytest.mark.parametrize("name", SICK)
def test_is_found_with_the_layers(name: str) -> None:
    model = SICK[name]()
    (finding,) = rounds(rule, model, rows(16, 6), steps=2)
    assert finding.severity is Severity.WARNING  # the variance doubles
    assert isinstance(model.get_submodule(finding.layers[0]), nn.Dropout)
    assert isinstance(model.get_submodule(finding.layers[1]), nn.BatchNorm1d)
    finding.remedies[0].apply(model)
    assert not rounds(rule, model, rows(16, 6), steps=2)
    model = SICK[name]()
    exec(finding.remedies[0].code, {"model": model, "nn": nn})
    assert not any(isinstance(module, nn.Dropout) for module in model)


def test_a_small_probability_is_a_note() -> None:
    model = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.2), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 1))
    (finding,) = rounds(rule, model, rows(16, 6), steps=2)
    assert finding.severity is Severity.NOTE


@pytest.mark.parametrize("name", HEALTHY)
def test_quiet(name: str) -> None:
    model = HEALTHY[name]()
    assert not rounds(rule, model, rows(16, 6), steps=2)


def test_the_variance_that_the_message_tells_of_is_measured() -> None:
    """Dropout p in front of a batch norm: at most 1/(1 - p) times the variance in training."""
    torch.manual_seed(0)
    x = torch.randn(10_000)
    assert nn.Dropout(0.5)(x).var() / x.var() == pytest.approx(2.0, rel=0.05)

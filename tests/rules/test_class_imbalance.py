"""class-imbalance on real runs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netdoctor
from netdoctor.rules.class_imbalance import class_imbalance as rule
from tests.rules.training import findings_of

X = torch.randn(400, 12, generator=torch.Generator().manual_seed(0))
LABELS = (X @ torch.randn(12, 5, generator=torch.Generator().manual_seed(1)) > 2.0).float()  # three in ten


@pytest.mark.parametrize("weight", [100.0, 2.5, 0.5])
def test_weights_that_outvote_the_targets_are_named(weight: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 5))
    positive = torch.full((5,), weight)

    def loss(i: int) -> Tensor:
        rows = torch.randint(len(X), (64,))
        return F.binary_cross_entropy_with_logits(model(X[rows]), LABELS[rows], pos_weight=positive)

    found = findings_of(rule, model, torch.optim.Adam(model.parameters(), lr=3e-3), loss, 80)
    assert bool(found) == (weight == 100)
    assert all("the rarer one" in finding.message and finding.layers == ("2",) for finding in found)


def test_the_share_of_ones_counts_their_weight() -> None:
    model = nn.Linear(12, 5)
    with netdoctor.watch(model, reporters=[], every=1) as monitor:
        F.binary_cross_entropy_with_logits(model(X), LABELS, pos_weight=torch.full((5,), 3.0)).backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    ones = LABELS.mean().item()
    assert monitor.history.latest("weighed_ones_share")[""] == pytest.approx(3 * ones / (3 * ones + 1 - ones))

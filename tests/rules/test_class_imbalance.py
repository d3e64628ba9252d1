"""class-imbalance on real runs with several labels a sample."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netdoctor
from netdoctor.findings import Finding
from netdoctor.rules.class_imbalance import class_imbalance as rule


def _tags(rare: float, weight: float | None, steps: int = 120) -> tuple[Finding, ...]:
    """Findings on twelve tags a row, each given to a share of ``rare`` of the rows."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(2000, 16)
    scores = x @ torch.randn(16, 12)
    y = (scores > scores.quantile(1 - rare, 0)).float()
    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 12))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    positive: Tensor | None = None if weight is None else torch.full((12,), weight)
    monitor = netdoctor.watch(model, reporters=[], rules=[rule], every=5)
    for _ in range(steps):
        rows = torch.randint(0, len(x), (64,))
        loss = F.binary_cross_entropy_with_logits(model(x[rows]), y[rows], pos_weight=positive)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    findings = monitor.diagnose().findings
    monitor.close()
    return findings


def test_tags_that_are_never_given() -> None:
    (finding,) = _tags(0.02, None)
    assert "12 labels of a sample are rare" in finding.message
    assert finding.layers == ("2",)
    assert "pos_weight=torch.tensor(4" in finding.remedies[0].code  # 49 zeros to a one


def test_quiet_where_tags_are_weighed_or_not_rare() -> None:
    assert not _tags(0.02, 40.0)
    assert not _tags(0.3, None)

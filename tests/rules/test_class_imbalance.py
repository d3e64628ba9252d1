"""class-imbalance on real runs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netdoctor
from netdoctor.findings import Finding
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


class _Pairs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.bias = nn.Embedding(40, 6), nn.Embedding(30, 6), nn.Embedding(30, 1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        score: Tensor = (self.left(left) * self.right(right)).sum(1) + self.bias(right).squeeze(1)
        return score


@pytest.mark.parametrize("negatives", ["none", "in the batch", "a loss of their own"])
def test_pairs_of_which_all_are_to_match(negatives: str) -> None:
    torch.manual_seed(0)
    model = _Pairs()

    def loss(i: int) -> Tensor:
        left = torch.randint(40, (64,))
        score, other = model(left, (left * 7) % 30), model(left, torch.randint(30, (64,)))
        if negatives == "none":
            return F.binary_cross_entropy_with_logits(score, torch.ones(64))
        if negatives == "in the batch":
            both = torch.cat((torch.ones(64), torch.zeros(64)))
            return F.binary_cross_entropy_with_logits(torch.cat((score, other)), both)
        return F.binary_cross_entropy_with_logits(score, torch.ones(64)) + F.binary_cross_entropy_with_logits(
            other, torch.zeros(64)
        )

    found = findings_of(rule, model, torch.optim.Adam(model.parameters(), lr=1e-2), loss, 60)
    assert bool(found) == (negatives == "none")


def test_a_generator_whose_images_are_to_be_real_is_no_such_pair() -> None:
    torch.manual_seed(0)
    generator, critic = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 12)), nn.Linear(12, 1)

    def loss(i: int) -> Tensor:
        return F.binary_cross_entropy_with_logits(critic(generator(torch.randn(64, 4)).tanh()), torch.ones(64, 1))

    assert not findings_of(rule, generator, torch.optim.Adam(generator.parameters(), lr=1e-3), loss, 60)

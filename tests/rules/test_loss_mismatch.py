"""loss-mismatch on real runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netdoctor.rules.loss_mismatch import loss_mismatch as rule
from tests.rules.training import findings_of

X = torch.randn(48, 6, generator=torch.Generator().manual_seed(0))
AIM = torch.rand(48, 4, generator=torch.Generator().manual_seed(1)).softmax(1)


def said(loss_of: Callable[[Tensor], Tensor]) -> list[str]:
    torch.manual_seed(0)
    model = nn.Linear(6, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return [finding.message for finding in findings_of(rule, model, optimizer, lambda i: loss_of(model(X)), 5)]


@pytest.mark.parametrize("reduction", ["batchmean", "sum"])
def test_a_divergence_of_probabilities_is_named(reduction: str) -> None:
    assert "logarithms" in said(lambda o: 0.5 * F.kl_div(o.softmax(1), AIM, reduction=reduction))[0]
    assert not said(lambda o: F.kl_div(o.log_softmax(1), AIM, reduction=reduction))


def test_other_losses_of_probabilities_are_none() -> None:
    assert not said(lambda o: (1 - 2 * (AIM * o.softmax(1)).sum(1) / (AIM + o.softmax(1)).sum(1)).mean())  # Dice
    assert not said(lambda o: 1 - (AIM * o.softmax(1)).sum(1).mean())
    assert not said(lambda o: F.mse_loss(o.softmax(1), AIM))
    assert not said(lambda o: (AIM * (AIM / o.softmax(1)).log()).sum(1).mean())


@pytest.mark.parametrize("kind", ["tokens", "counts", "scores"])
def test_tokens_taken_for_a_quantity_are_named(kind: str) -> None:
    torch.manual_seed(0)
    order = torch.randperm(20)
    model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def loss(i: int) -> Tensor:
        frequent = torch.distributions.Geometric(0.15).sample((32, 12)).clamp_max(19).long()
        tokens = order[frequent]
        quantity = frequent if kind == "counts" else frequent.clamp_max(5)
        return F.mse_loss(model(tokens).squeeze(2), (tokens if kind == "tokens" else quantity).float())

    assert bool(findings_of(rule, model, optimizer, loss, 6)) == (kind == "tokens")


SIGNS = torch.where(AIM > 0.25, 1.0, -1.0)
KEPT = torch.rand(48, 4, generator=torch.Generator().manual_seed(2)) < 0.7


def test_yes_or_no_targets_outside_of_0_and_1_are_named() -> None:
    assert "-1 and 1" in said(lambda o: F.binary_cross_entropy_with_logits(o, SIGNS))[0]
    assert "and 4" in said(lambda o: F.binary_cross_entropy_with_logits(o, 4 * SIGNS.relu(), reduction="sum"))[0]
    assert said(lambda o: F.binary_cross_entropy_with_logits(o, SIGNS, reduction="none").mean())
    assert not said(lambda o: F.binary_cross_entropy_with_logits(o, (SIGNS + 1) / 2 + 0.2 * AIM))
    assert not said(lambda o: F.binary_cross_entropy_with_logits(o, AIM))


def test_yes_or_no_targets_that_a_mask_leaves_out_are_none() -> None:
    masked = ((SIGNS + 1) / 2).masked_fill(~KEPT, -1)
    assert not said(lambda o: (F.binary_cross_entropy_with_logits(o, masked, reduction="none") * KEPT).mean())
    assert not said(lambda o: F.binary_cross_entropy_with_logits(o, masked, weight=KEPT.float()))
    assert not said(lambda o: F.binary_cross_entropy_with_logits(o, masked, reduction="none")[KEPT].mean())

"""silent-broadcast on real runs, in losses written by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from netdoctor.rules.silent_broadcast import silent_broadcast as rule
from tests.rules.training import findings_of

Loss = Callable[[Tensor, Tensor], Tensor]
X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
Y = X[:, :1].tanh()


def said(loss_of: Loss, target: Tensor, outputs: int = 1) -> list[str]:
    torch.manual_seed(0)
    model = nn.Linear(6, outputs)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    return [found.message for found in findings_of(rule, model, optimizer, lambda i: loss_of(model(X), target), 4)]


def log_cosh(output: Tensor, y: Tensor) -> Tensor:
    return (y - output).cosh().log().mean()


def policy(output: Tensor, advantage: Tensor) -> Tensor:
    return -(nn.functional.logsigmoid(output) * advantage).sum()


def gaussian(output: Tensor, y: Tensor) -> Tensor:
    mean, log_variance = output.unbind(1)
    return 0.5 * (log_variance + (y - mean).square() / log_variance.exp()).mean()


@pytest.mark.parametrize(("loss", "outputs"), [(log_cosh, 1), (policy, 1), (gaussian, 2)])
def test_pairs_in_a_loss_written_by_hand_are_named(loss: Loss, outputs: int) -> None:
    wrong, right = (Y, Y.squeeze(1)) if outputs > 1 else (Y.squeeze(1), Y)
    assert "(16, 16) pairs" in said(loss, wrong, outputs)[0]
    assert not said(loss, right, outputs)


def hazards(risk: Tensor, at_risk: Tensor) -> Tensor:
    """Cox's partial likelihood: each event against all who might have had one."""
    return ((risk.squeeze(1).exp() * at_risk).sum(1).log() - risk.squeeze(1)).mean()


def decay(height: Tensor, curve: Tensor) -> Tensor:
    """A height for each row, of as many points as there are rows."""
    return (height * torch.linspace(0, 1, 16) - curve).square().mean()


def distances(place: Tensor, others: Tensor) -> Tensor:
    return (place.squeeze(1)[:, None] - others).abs().sqrt().mean()


@pytest.mark.parametrize(
    ("loss", "target"), [(hazards, torch.ones(16, 16).tril()), (decay, torch.rand(16, 16)), (distances, X[:, 0])]
)
def test_pairs_on_purpose_are_none(loss: Loss, target: Tensor) -> None:
    assert not said(loss, target)

"""over-regularized on real runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical

from netdoctor.loss_path import loss_path
from netdoctor.probes.penalties import split
from netdoctor.rules.over_regularized import over_regularized as rule
from netdoctor.rules.weight_growth import weight_growth
from tests.rules.training import findings_of


@pytest.mark.parametrize(("bonus", "reward"), [(5.0, True), (0.01, True), (0.01, False)])
def test_a_bonus_that_outweighs_the_reward_is_named(bonus: float, reward: bool) -> None:
    torch.manual_seed(0)
    policy = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 3))
    best = torch.randn(8, 3)

    def loss(i: int) -> Tensor:
        state = torch.randn(64, 8)
        choice = Categorical(logits=policy(state))
        action = choice.sample()
        earned = (action == (state @ best).argmax(1)).float() * reward
        gain: Tensor = choice.log_prob(action) * (earned - earned.mean())
        loss: Tensor = -gain.mean() - bonus * choice.entropy().mean()
        return loss

    found = findings_of(rule, policy, torch.optim.Adam(policy.parameters(), lr=5e-3), loss, 120)
    assert bool(found) == (bonus > 1)
    assert all(finding.layers == ("2",) and "entropy" in finding.message for finding in found)


def penalised(strength: float, model: nn.Module) -> Callable[[int], Tensor]:
    """The loss of a regression with a penalty on all weights."""
    direction = torch.randn(8)

    def loss(i: int) -> Tensor:
        x = torch.randn(64, 8)
        penalty: Tensor = sum(p.square().sum() for p in model.parameters())  # type: ignore[assignment]
        return F.mse_loss(model(x)[:, 0], torch.sin(x @ direction)) + strength * penalty

    return loss


@pytest.mark.parametrize(("strength", "sick"), [(1.0, True), (1e-4, False)])
def test_a_penalty_written_by_hand(strength: float, sick: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    loss = penalised(strength, model)
    found = findings_of(rule, model, torch.optim.Adam(model.parameters(), lr=5e-3), loss, 120)
    assert bool(found) == sick
    assert all("of a penalty on the weights and" in finding.message for finding in found)


def test_a_penalty_that_is_subtracted() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    found = findings_of(weight_growth, model, optimizer, penalised(-0.1, model), 60)
    assert found
    assert all("the larger the weights become" in finding.message for finding in found)


def test_what_the_penalty_is() -> None:
    torch.manual_seed(0)
    model, log_scale = nn.Linear(5, 3), nn.Parameter(torch.tensor(-1.0))
    weight, x, y = model.weight, torch.randn(6, 5), torch.randint(0, 3, (6,))
    forms: list[tuple[Tensor, bool]] = [
        (weight.pow(2).sum() + 0.1 * model.bias.abs().sum(), True),
        (torch.stack([p.square().sum() for p in model.parameters()]).sum() / 2, True),
        (torch.cat([p.view(-1) for p in model.parameters()]).square().mean(), True),
        (weight.norm() + torch.linalg.vector_norm(model.bias) ** 2, True),
        ((weight * weight).sum(1).sqrt().sum(), True),
        (log_scale * 1.0, False),  # the weight of a loss that is learned
        (model(x).square().mean(), False),
        (model(x).sum() + weight.square().sum(), False),
    ]
    for form, known in forms:
        for loss in (F.cross_entropy(model(x), y) + 0.5 * form, 0.5 * form + F.cross_entropy(model(x), y)):
            path, value = split(loss_path(loss.grad_fn))
            assert path.names[0] == ("NllLossBackward0" if known else "AddBackward0")
            if known:
                torch.testing.assert_close(value, 0.5 * form.detach())
            else:
                assert value is None


@pytest.mark.parametrize(("strength", "sick"), [(0.2, True), (1e-5, False)])
def test_a_lasso_that_outweighs_the_data(strength: float, sick: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 40), nn.Tanh(), nn.Linear(40, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    x = torch.randn(400, 6)
    y = torch.sin(x[:, 0] * x[:, 1]) + x[:, 2]

    def loss_of(step: int) -> Tensor:
        rows = torch.arange(32 * step, 32 * step + 32) % 400
        penalty: Tensor = sum(p.abs().sum() for p in model.parameters())  # type: ignore[assignment]
        return F.mse_loss(model(x[rows])[:, 0], y[rows]) + strength * penalty

    found = findings_of(rule, model, optimizer, loss_of, 50)
    assert bool(found) == sick
    assert all("of a penalty on the weights" in finding.message for finding in found)

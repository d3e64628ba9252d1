"""over-regularized on real runs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from netdoctor.rules.over_regularized import over_regularized as rule
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

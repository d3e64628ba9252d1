"""oscillating-loss and noisy-gradient on real runs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import netdoctor
from netdoctor.findings import Finding
from netdoctor.rules.base import Rule
from netdoctor.rules.noisy_gradient import noisy_gradient
from netdoctor.rules.oscillating_loss import oscillating_loss
from tests.rules.training import digits, mlp, train


@pytest.mark.parametrize(("momentum", "swings"), [(0.99, True), (0.9, False)])
def test_a_swing_that_momentum_keeps_up(momentum: float, swings: bool) -> None:
    torch.manual_seed(0)
    model, truth = nn.Linear(20, 4), torch.randn(20, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    monitor = netdoctor.watch(model, reporters=[], rules=[oscillating_loss], every=1)
    for step in range(120):
        x = torch.randn(64, 20)
        loss = F.mse_loss(model(x), x @ truth + torch.randn(64, 4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0:
            monitor.diagnose()
    monitor.close()
    assert bool(monitor.findings) == swings
    if swings:
        assert "momentum of 0.99" in monitor.findings[0].message
        monitor.findings[0].remedies[0].apply(model, optimizer)
        assert optimizer.param_groups[0]["momentum"] == 0.9


def ravine(rate: float, cure: Finding | None = None) -> tuple[tuple[Finding, ...], list[float]]:
    """Full-batch gradient descent on a quadratic loss of curvature 2 and less; the rate is that over the stable one."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    scales = torch.tensor([1.0, 0.5, 0.2])
    x = torch.linalg.qr(torch.randn(50, 3))[0] * 50**0.5 * scales
    y = x @ torch.tensor([[3.0], [-2.0], [1.0]])
    model = nn.Linear(3, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), rate)
    if cure is not None:
        cure.remedies[0].apply(model, optimizer)
    monitor = netdoctor.watch(model, reporters=[], rules=[oscillating_loss], every=1)
    losses = []
    for _ in range(60):
        loss = F.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    monitor.diagnose()
    monitor.close()
    return monitor.findings, losses


def test_walls_are_found_and_the_factor_cures() -> None:
    (found,), losses = ravine(0.999)
    assert found.step <= 20
    assert "two walls" in found.message
    assert losses[-1] > 0.5 * losses[0]
    findings, losses = ravine(0.999, found)
    assert not findings
    assert losses[-1] < 0.1 * losses[0]
    assert not ravine(0.4)[0]


def test_adam_that_bounces_is_found_and_the_factor_cures() -> None:
    model = mlp()
    findings, before = train(oscillating_loss, model, torch.optim.Adam(model.parameters(), 0.05), 250, judge=25)
    assert findings
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    findings[0].remedies[0].apply(model, optimizer)
    findings, after = train(oscillating_loss, model, optimizer, 250, judge=25)
    assert not findings
    assert sum(after[-50:]) < 0.5 * sum(before[-50:])


def test_small_noisy_batches_are_found_and_cured() -> None:
    noisy = digits(noise=0.4)
    model = mlp()
    findings, before = train(
        noisy_gradient, model, torch.optim.SGD(model.parameters(), 0.2), 300, noisy, batch=2, judge=25
    )
    assert findings
    assert "2 samples in a batch" in findings[0].message
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.2)
    next(remedy for remedy in findings[0].remedies if remedy.applicable).apply(model, optimizer)
    findings, after = train(noisy_gradient, model, optimizer, 600, noisy, batch=2, judge=25)
    assert not findings
    assert sum(after[-200:]) / 200 < 0.95 * sum(before[-200:]) / 200


def bandit(baseline: bool, episodes: int, rate: float = 0.02) -> tuple[Finding, ...]:
    """REINFORCE on a bandit whose rewards are all around 10."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 4))
    best = torch.randn(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), rate)
    monitor = netdoctor.watch(model, reporters=[], rules=[noisy_gradient], every=2)
    for _ in range(200):
        context = torch.randn(episodes, 4)
        policy = torch.distributions.Categorical(logits=model(context))
        action = policy.sample()
        reward = (action == (context @ best).argmax(1)).float() + 10
        advantage = reward - reward.mean() if baseline else reward
        loss = -(policy.log_prob(action) * advantage).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    monitor.diagnose()
    monitor.close()
    return monitor.findings


def test_rewards_without_a_baseline_are_found() -> None:
    (found,) = bandit(False, 4, 0.01)
    assert "baseline" in found.remedies[0].action
    assert not bandit(True, 64)


@pytest.mark.parametrize("rule", [noisy_gradient, oscillating_loss], ids=lambda rule: rule.slug)
@pytest.mark.parametrize("seed", range(2))
def test_quiet_on_healthy_runs(rule: Rule, seed: int) -> None:
    for kind, lr, batch in ((torch.optim.SGD, 0.1, 32), (torch.optim.Adam, 3e-3, 32), (torch.optim.SGD, 0.01, 1)):
        model = mlp(seed)
        assert not train(rule, model, kind(model.parameters(), lr=lr), 250, batch=batch, judge=25)[0]
    model = mlp(seed)  # noise that is the data's own
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
    assert not train(rule, model, optimizer, 250, digits(noise=0.4), batch=64, judge=25)[0]

"""diverging-loss on real runs."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netdoctor
from netdoctor.findings import Finding, Severity
from netdoctor.rules.diverging_loss import diverging_loss as rule
from tests.rules.training import digits, mlp


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[nn.Module, torch.Generator], Tensor],
    steps: int = 100,
) -> tuple[tuple[Finding, ...], list[float]]:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    monitor = netdoctor.watch(model, reporters=[], rules=[rule], every=3)
    losses = []
    for _ in range(steps):
        loss = loss_of(model, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    monitor.diagnose()
    monitor.close()
    return monitor.findings, losses


def on_digits(sign: float) -> Callable[[nn.Module, torch.Generator], Tensor]:
    inputs, targets = digits()

    def loss_of(model: nn.Module, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(0, len(inputs), (32,), generator=generator)
        return sign * F.cross_entropy(model(inputs[chosen]), targets[chosen])

    return loss_of


def test_a_loss_with_the_wrong_sign_is_named_and_cured() -> None:
    model = mlp()
    (found,), _ = train(model, torch.optim.SGD(model.parameters(), 0.1), on_digits(-1))
    assert found.severity == Severity.ERROR
    assert "negative of the cross-entropy loss" in found.message
    assert found.step <= 40
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    next(remedy for remedy in found.remedies if remedy.applicable).apply(model, optimizer)
    findings, losses = train(model, optimizer, on_digits(-1), 200)
    assert not findings
    assert sum(losses[-20:]) / 20 > -0.7  # the negative of a small loss


def test_an_optimizer_that_maximises_is_named_and_cured() -> None:
    for kind, rate in ((torch.optim.SGD, 0.05), (torch.optim.Adam, 5e-3)):
        model = mlp()
        optimizer = kind(model.parameters(), lr=rate, maximize=True)
        (found,), _ = train(model, optimizer, on_digits(1))
        assert "maximises" in found.message
        found.remedies[0].apply(model, optimizer)
        assert not any(group["maximize"] for group in optimizer.param_groups)
        model = mlp()
        optimizer = kind(model.parameters(), lr=rate, maximize=True)
        found.remedies[0].apply(model, optimizer)
        assert not train(model, optimizer, on_digits(1))[0]


def feedback(discount: float) -> Callable[[nn.Module, torch.Generator], Tensor]:
    def loss_of(model: nn.Module, generator: torch.Generator) -> Tensor:
        states, following = torch.randn(2, 64, 6, generator=generator)
        with torch.no_grad():
            target = 1 + discount * model(following)
        return F.mse_loss(model(states), target)

    return loss_of


def test_a_loss_that_feeds_itself_is_named() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1))
    findings, losses = train(model, torch.optim.SGD(model.parameters(), 0.004), feedback(1.3), 150)
    assert losses[-1] > 20 * losses[0]
    assert "moves away faster" in findings[0].message
    assert findings[0].step <= 150
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1))
    assert not train(model, torch.optim.SGD(model.parameters(), 0.02), feedback(0.5), 200)[0]


def test_a_critic_that_nothing_bounds_is_named() -> None:
    def wasserstein(model: nn.Module, generator: torch.Generator) -> Tensor:
        real, fake = torch.randn(2, 64, 3, generator=generator)
        judged: Tensor = model(fake).mean() - model(real + 1.0).mean()
        return judged

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
    (found,), _ = train(model, torch.optim.Adam(model.parameters(), 5e-3), wasserstein, 150)
    assert "without end" in found.message
    assert found.severity == Severity.WARNING
    assert next(remedy for remedy in found.remedies if remedy.applicable).unbounded


def test_quiet_on_runs_that_go_down_whatever_their_sign() -> None:
    def density(model: nn.Module, generator: torch.Generator) -> Tensor:
        """The negative logarithm of a density, which ends below 0."""
        x = torch.randn(64, 1, generator=generator)
        mean, scale = model(x).chunk(2, 1)
        loss: Tensor = (scale + 0.5 * ((0.05 * x - mean) / scale.exp()).square()).mean()
        return loss

    for kind in (torch.optim.SGD, torch.optim.Adam):
        model = mlp()
        assert not train(model, kind(model.parameters(), lr=5e-3), on_digits(1))[0]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 2))
    findings, losses = train(model, torch.optim.Adam(model.parameters(), 1e-2), density, 200)
    assert losses[-1] < -1
    assert not findings

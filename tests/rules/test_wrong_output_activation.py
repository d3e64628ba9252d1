"""wrong-output-activation on real runs: found within two steps, cured by leaving it out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netdoctor.rules.wrong_output_activation import wrong_output_activation as rule
from tests.rules.training import descend, digits, findings_of, mlp

X, Y = digits()
SPREAD = X[:, :8] @ torch.ones(8, 1) / 8**0.5  # a target of both signs
SPREAD = (SPREAD - SPREAD.mean()) / SPREAD.std()
Criterion = Callable[[Tensor, Tensor], Tensor]


def batch(step: int, y: Tensor) -> tuple[Tensor, Tensor]:
    chosen = torch.arange(32 * step, 32 * (step + 1)) % len(X)
    return X[chosen], y[chosen]


def regression(end: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1), end)


@pytest.mark.parametrize("end", [nn.Sigmoid, nn.Tanh, nn.ReLU, nn.Softplus])
@pytest.mark.parametrize("criterion", [F.mse_loss, F.l1_loss, lambda o, t: ((t - o) ** 2).mean()])
def test_targets_out_of_reach(end: type[nn.Module], criterion: Criterion) -> None:
    model = regression(end())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def loss_of(step: int) -> Tensor:
        x, y = batch(step, SPREAD)
        return criterion(model(x), y)

    (finding,) = findings_of(rule, model, optimizer, loss_of, 2)
    assert finding.layers == ("2", "3")
    assert finding.step == 2
    finding.remedies[0].apply(model, optimizer)
    assert descend(optimizer, loss_of, 300) < 0.15


RANGES: dict[str, tuple[nn.Module, Tensor]] = {
    "probabilities": (nn.Sigmoid(), torch.sigmoid(2 * SPREAD)),
    "between bounds": (nn.Tanh(), 1.02 * torch.tanh(2 * SPREAD)),
    "counts": (nn.ReLU(), (3 * SPREAD).exp().round()),
    "positive": (nn.Softplus(), SPREAD.exp()),
    "any value": (nn.Identity(), 100 * SPREAD),
    "leaky": (nn.LeakyReLU(), SPREAD),
}


@pytest.mark.parametrize("name", RANGES)
def test_targets_within_reach(name: str) -> None:
    end, targets = RANGES[name]
    model = regression(end)

    def loss_of(step: int) -> Tensor:
        x, y = batch(step, targets)
        return F.mse_loss(model(x), y)

    assert not findings_of(rule, model, torch.optim.Adam(model.parameters(), lr=1e-3), loss_of, 10)


LOGITS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "relu": (F.relu, True),
    "tanh": (torch.tanh, True),
    "sigmoid": (torch.sigmoid, True),
    "capped on purpose": (lambda o: 30 * torch.tanh(o / 30), False),
    "scaled": (lambda o: 10 * torch.tanh(o), False),
    "clamped far off": (lambda o: o.clamp(min=-50), False),
    "plain": (lambda o: o, False),
}


@pytest.mark.parametrize("name", LOGITS)
def test_logits(name: str) -> None:
    end, sick = LOGITS[name]
    model = mlp()

    def loss_of(step: int) -> Tensor:
        x, y = batch(step, Y)
        return F.cross_entropy(end(model(x)), y)

    findings = findings_of(rule, model, torch.optim.SGD(model.parameters(), lr=0.1), loss_of, 1)
    assert [finding.layers for finding in findings] == [("4",)] * sick


def test_a_module_on_the_logits_is_left_out() -> None:
    model = mlp().append(nn.Tanh())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss_of(step: int) -> Tensor:
        x, y = batch(step, Y)
        return F.cross_entropy(model(x), y)

    (finding,) = findings_of(rule, model, optimizer, loss_of, 1)
    assert finding.layers == ("4", "5")
    finding.remedies[0].apply(model, optimizer)
    assert descend(optimizer, loss_of, 250) < 0.3


def test_features_and_hidden_activations_are_no_outputs() -> None:
    """The activation of a frozen teacher's features, and that of a shared module inside."""
    torch.manual_seed(0)
    act = nn.ReLU()
    model = nn.Sequential(nn.Linear(64, 32), act, nn.Linear(32, 16), act)
    teacher = nn.Sequential(nn.Linear(64, 16), nn.ReLU())

    def loss_of(step: int) -> Tensor:
        x, _ = batch(step, Y)
        return F.mse_loss(model(x), teacher(x).detach())

    assert not findings_of(rule, model, torch.optim.Adam(model.parameters(), lr=1e-3), loss_of, 5)


@pytest.mark.parametrize("widened", [True, False])
def test_a_range_that_is_widened_to_the_targets_is_none(widened: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 1), nn.Sigmoid())

    def loss_of(step: int) -> Tensor:
        x, y = batch(step, Y)
        score = model(x).squeeze(1)
        return F.mse_loss(10 * score - 0.5 if widened else score, y.float())

    assert bool(findings_of(rule, model, torch.optim.Adam(model.parameters(), lr=1e-3), loss_of, 3)) is not widened

"""train-val-mismatch on real runs: digits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

import netdoctor
from netdoctor.diagnose import diagnose
from netdoctor.findings import Finding
from netdoctor.rules.overfitting import overfitting
from netdoctor.rules.train_val_mismatch import fires
from netdoctor.rules.train_val_mismatch import train_val_mismatch as rule
from tests.rules.training import digits, mlp, train

Change = Callable[[Tensor], Tensor]


def run(model: nn.Module, change: Change, steps: int = 120, count: int = 1400, rate: float = 2e-3) -> list[Finding]:
    """Validated every 20 steps, on inputs that are changed."""
    inputs, targets = digits()
    data, validation = (inputs[:count], targets[:count]), (change(inputs[1400:]), targets[1400:])
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    return list(train(rule, model, optimizer, steps, data, validation=validation)[0])


def normed(momentum: float) -> nn.Sequential:
    torch.manual_seed(0)
    norms = [nn.BatchNorm1d(64, momentum=momentum) for _ in range(2)]
    model = mlp()
    return nn.Sequential(model[0], norms[0], nn.ReLU(), model[2], norms[1], nn.ReLU(), model[4])


def test_another_scale_in_validation_is_named_with_its_numbers() -> None:
    found = run(mlp(), lambda x: 5 * x + 12)
    assert found[0].step <= 60
    assert "the input has mean" in found[-1].message
    assert found[-1].confidence > 0.9
    assert not found[-1].layers


def test_batch_norms_that_gather_too_slowly_are_named_and_cured() -> None:
    model = normed(momentum=1e-4)
    found = run(model, lambda x: x)
    assert found[0].step <= 80
    assert set(found[-1].layers) <= {"1", "4"}
    found[-1].remedies[0].apply(model)
    assert not run(model, lambda x: x, steps=60)


def test_batch_norms_of_the_usual_memory_gather_anew() -> None:
    """The weights move too fast for them."""
    stale = fires()[1]
    assert "momentum = 0.1" in diagnose(stale, [rule]).findings[0].remedies[0].code
    stale.facts = stale.facts.with_changes(layers=(replace(stale.facts.layers[0], momentum=0.1),))
    assert "update_bn" in diagnose(stale, [rule]).findings[0].remedies[0].code


def test_quiet_on_healthy_runs_on_harmless_differences_and_on_overfitting() -> None:
    assert not run(mlp(), lambda x: x, steps=200)
    assert not run(normed(0.1), lambda x: x)
    assert not run(mlp(), lambda x: 1.3 * x + 0.3)  # another camera, and no harm
    assert not run(mlp(width=256), lambda x: x, steps=300, count=100)
    assert not run(mlp(), lambda x: x, steps=40, rate=1e-6)  # too early


def test_a_metric_in_other_units_is_none_of_it() -> None:
    """Trained on a scaled target, validated in its own unit."""
    torch.manual_seed(0)
    inputs = torch.randn(500, 64)
    targets = torch.tanh(inputs[:, :1] + inputs[:, 1:2])
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer, loss = torch.optim.Adam(model.parameters(), 1e-2), nn.MSELoss()
    import netdoctor

    with netdoctor.watch(model, reporters=[], rules=[rule], every=5) as monitor:
        for step in range(1, 201):
            optimizer.zero_grad()
            loss(model(inputs[:400]), targets[:400]).backward()
            optimizer.step()
            if step % 20 == 0:
                with torch.no_grad():
                    loss(1000 * model(inputs[400:]), 1000 * targets[400:])
        assert not monitor.diagnose().findings


def _seasons(own: bool, count: int = 1000) -> tuple[Finding, ...]:
    """A regression validated on one season, scaled by itself or by the whole year."""
    torch.manual_seed(0)
    x = torch.randn(count, 4)
    y = (2 * x[:, :1]).tanh() + 0.3 * x[:, 1:2]
    late = x[:, 0] > 0.8
    held = (x[late] - x[late].mean(0)) / x[late].std(0) if own else x[late]
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    monitor = netdoctor.watch(model, reporters=[], rules=[rule, overfitting])
    for step in range(1, 201):
        rows = torch.randint(count, (32,))
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x[rows]), y[rows]).backward()
        optimizer.step()
        if step % 20 == 0:
            with torch.no_grad():
                nn.functional.mse_loss(model(held), y[late])
    found = monitor.diagnose().findings
    monitor.close()
    return found


def test_validation_scaled_by_itself_is_not_learning_by_heart() -> None:
    assert [finding.rule for finding in _seasons(own=True)] == ["train-val-mismatch"]
    assert not _seasons(own=False)


def _labelled(noise: float, number: int, count: int, steps: int = 200) -> list[Finding]:
    """Classes are numbered anew for validation."""
    inputs, targets = digits(noise)
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    held = inputs[1400:], (targets[1400:] + number) % 10
    return list(train(rule, model, optimizer, steps, (inputs[:count], targets[:count]), validation=held)[0])


def test_classes_numbered_anew_are_not_learning_by_heart() -> None:
    found = _labelled(0.0, 3, 1400)
    assert found[0].step <= 160
    assert "could not know by heart" in found[-1].message
    assert not _labelled(0.0, 0, 1400)


def test_noise_learned_by_heart_is_none_of_it() -> None:
    for seen in (100, 400, 1000):
        assert not _labelled(1.0, 0, seen, 300)

"""learning-rate-too-small on real runs."""

import itertools

import pytest
import torch
from torch import nn

import netdoctor
from netdoctor.rules.learning_rate_too_small import learning_rate_too_small as rule
from tests.rules.training import mlp, train


@pytest.mark.parametrize(("kind", "lr"), [(torch.optim.SGD, 1e-5), (torch.optim.SGD, 1e-3), (torch.optim.Adam, 1e-6)])
def test_is_found_and_cured(kind: type[torch.optim.Optimizer], lr: float) -> None:
    model = mlp()
    findings, _ = train(rule, model, kind(model.parameters(), lr=lr), 80)  # type: ignore[call-arg]
    assert findings[0].step <= 40
    remedy = findings[-1].remedies[0]
    model = mlp()
    optimizer = kind(model.parameters(), lr=lr)  # type: ignore[call-arg]
    remedy.apply(model, optimizer)
    by_code = kind(model.parameters(), lr=lr)  # type: ignore[call-arg]
    exec(remedy.code, {"optimizer": by_code})
    assert by_code.param_groups[0]["lr"] == pytest.approx(optimizer.param_groups[0]["lr"])
    findings, losses = train(rule, model, optimizer, 400)
    assert not findings
    assert sum(losses[-20:]) / 20 < 1.0  # from 2.3


@pytest.mark.parametrize("seed", range(3))
def test_quiet_on_healthy_runs(seed: int) -> None:
    for kind, lr in ((torch.optim.SGD, 0.1), (torch.optim.SGD, 0.01), (torch.optim.Adam, 1e-3)):
        model = mlp(seed)
        assert not train(rule, model, kind(model.parameters(), lr=lr), 120)[0]


def test_quiet_in_a_warm_up_and_after_a_decay() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1e-5, total_iters=2000)
    assert not train(rule, model, optimizer, 100, scheduler=warm)[0]
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    decay = torch.optim.lr_scheduler.StepLR(optimizer, 60, 0.1)
    assert not train(rule, model, optimizer, 100, scheduler=decay)[0]


@pytest.mark.parametrize(("lr", "end", "small"), [(1e-5, 0.0, True), (1e-5, 1e-7, True), (0.1, 0.0, False)])
def test_a_decay_of_a_rate_that_is_too_small_hides_nothing(lr: float, end: float, small: bool) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200, eta_min=end)
    findings, _ = train(rule, model, optimizer, 200, scheduler=cosine)
    assert [finding.step for finding in findings if finding.step == 200] == [200] * small


def test_quiet_where_only_the_early_layers_stand_still() -> None:
    torch.manual_seed(0)
    sizes = (64, *[64] * 6)
    hidden = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), nn.Sigmoid())]
    model = nn.Sequential(*hidden, nn.Linear(64, 10))
    assert not train(rule, model, torch.optim.SGD(model.parameters(), lr=0.1), 100)[0]  # gradients vanish


@pytest.mark.parametrize(("lr", "limit", "creeps"), [(1e-3, 1e6, True), (0.1, 1e-2, True), (0.1, 1.0, False)])
def test_a_loss_that_creeps_along_a_straight_line(lr: float, limit: float, creeps: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr / 10, momentum=0.9)
    truth = torch.randn(20, 1) / 20**0.5
    monitor = netdoctor.watch(model, reporters=[], rules=[rule], every=1)
    for _ in range(80):
        x = torch.randn(256, 20)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), x @ truth).backward()
        nn.utils.clip_grad_norm_(model.parameters(), limit)
        optimizer.step()
    found = monitor.diagnose().findings
    monitor.close()
    assert bool(found) == creeps
    if creeps:
        assert "point the same way" in found[0].message
        assert ("being cut to 0.0" in found[0].message) == (limit < 1)


def test_a_rate_made_for_fine_tuning_from_scratch() -> None:
    for lr, crawls in ((2e-5, True), (1e-3, False)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 48), nn.GELU(), nn.Dropout(0.2), nn.Linear(48, 10))
        findings, _ = train(rule, model, torch.optim.AdamW(model.parameters(), lr=lr), 120)
        assert bool(findings) is crawls
        assert not crawls or "promises" in findings[-1].message

"""loss-spike on real runs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netdoctor
from netdoctor.findings import Finding
from netdoctor.rules.loss_spike import loss_spike as rule
from tests.rules.training import digits, mlp


def regression(
    broken: tuple[int, ...], steps: int = 160, cure: Finding | None = None, batch: int = 32
) -> tuple[tuple[Finding, ...], list[float]]:
    """At the steps ``broken`` the targets come in another unit."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    if cure is not None:
        cure.remedies[0].apply(model, optimizer)
    monitor = netdoctor.watch(model, reporters=[], rules=[rule])
    monitor._schedule.clock = lambda: 0.1 * monitor.step
    losses = []
    for step in range(1, steps + 1):
        x = torch.randn(batch, 8, generator=generator)
        y = x[:, :1].sin() + x[:, 1:2] * 0.5
        loss = F.mse_loss(model(x), y * (100 if step in broken else 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    monitor.diagnose()
    monitor.close()
    return monitor.findings, losses


def test_a_broken_batch_is_named_at_the_next_step_and_clipping_keeps_the_weights() -> None:
    (found,), losses = regression((120,))
    assert found.step <= 122  # judged out of turn
    assert "step 120" in found.message
    assert found.remedies[0].applicable
    clipped = regression((120,), cure=found)[1]
    assert max(clipped[121:130]) < 0.1 * max(losses[121:130])


def test_images_that_come_back_in_each_epoch_are_named() -> None:
    torch.set_num_threads(1)
    inputs, targets = digits()
    inputs = inputs.clone()
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    monitor = netdoctor.watch(model, reporters=[], rules=[rule], every=2)
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        inputs[:8] = 40 * torch.randn(8, 64, generator=generator)  # decoded wrongly, each time in another way
        for chosen in torch.randperm(len(inputs), generator=generator).split(32):
            loss = F.cross_entropy(model(inputs[chosen]), targets[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    monitor.diagnose()
    monitor.close()
    (found,) = monitor.findings
    assert "sampled steps" in found.message


@pytest.mark.parametrize("batch", [1, 4, 32])
def test_quiet_on_a_healthy_run_whatever_its_batch(batch: int) -> None:
    assert not regression((), batch=batch)[0]


def test_not_said_of_steps_that_are_too_long() -> None:
    torch.set_num_threads(1)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.9)
    monitor = netdoctor.watch(model, reporters=[], rules=[rule], every=1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(100):
        x: Tensor = torch.randn(16, 4, generator=generator)
        loss = F.mse_loss(model(x), x[:, :1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    monitor.diagnose()
    monitor.close()
    assert not monitor.findings


def test_a_broken_sensor_that_comes_back_is_named_whatever_its_steps() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    monitor = netdoctor.watch(model, reporters=[], rules=[rule], every=50)
    for step in range(1, 131):
        x = torch.randn(32, 8, generator=generator)
        y = x[:, :1].sin() + x[:, 1:2] * 0.5
        x[0] += 100 * torch.randn(8, generator=generator) * (step in (28, 61, 97))
        loss = F.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    monitor.diagnose()
    monitor.close()
    (found,) = monitor.findings
    assert "steps (28, 61, 97)" in found.message


def test_quiet_where_doubtful_samples_stand_out_of_a_converged_run() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    angle = torch.linspace(0, 12.56, 1200)
    x = (1 + (torch.arange(1200) % 2)[:, None]) * torch.stack((angle.cos(), angle.sin()), 1) + 0.1 * torch.randn(
        1200, 2
    )
    parts: list[nn.Module] = []
    for before in (2, 32, 32):
        parts += [nn.Linear(before, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU()]
    model = nn.Sequential(*parts, nn.Linear(32, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    monitor = netdoctor.watch(model, reporters=[], rules=[rule], every=2)
    for _ in range(250):
        chosen = torch.randint(0, 1200, (64,))
        loss = F.cross_entropy(model(x[chosen]), chosen % 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        monitor.diagnose()
    monitor.close()
    assert not monitor.findings


def test_other_data_from_one_step_on_are_no_spike() -> None:
    """Digits from 5 on come in, and their batches cost as much as the first of them."""
    torch.manual_seed(0)
    x, y = digits()
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    monitor = netdoctor.watch(model, reporters=[], rules=[rule])
    monitor._schedule.clock = lambda: 0.1 * monitor.step
    for step in range(1, 241):
        rows = ((y < 5) if step <= 150 else (y >= 0)).nonzero().squeeze(1)
        chosen = rows[torch.randint(len(rows), (64,))]
        optimizer.zero_grad()
        F.cross_entropy(model(x[chosen]), y[chosen]).backward()
        optimizer.step()
    monitor.close()
    assert not monitor.findings

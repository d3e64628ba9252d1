"""Short real training runs on digits for the tests of the rules on steps and curves."""

from __future__ import annotations

from collections.abc import Callable

import torch
from sklearn import datasets
from torch import Tensor, nn

import netdoctor
from netdoctor.findings import Finding
from netdoctor.rules.base import Rule

Make = Callable[[nn.Module], torch.optim.Optimizer]


def digits(noise: float = 0.0) -> tuple[Tensor, Tensor]:
    """Standardised digits in a fixed random order; ``noise`` is the share of random labels."""
    x, y = datasets.load_digits(return_X_y=True)
    inputs, targets = torch.tensor((x / 16 - 0.305) / 0.376, dtype=torch.float32), torch.tensor(y)
    generator = torch.Generator().manual_seed(7)
    order = torch.randperm(len(inputs), generator=generator)
    inputs, targets = inputs[order], targets[order]
    random = torch.randint(0, 10, targets.shape, generator=generator)
    return inputs, torch.where(torch.rand(targets.shape, generator=generator) < noise, random, targets)


def mlp(seed: int = 0, width: int = 64) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


def train(
    rule: Rule,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    data: tuple[Tensor, Tensor] | None = None,
    batch: int = 32,
    validation: tuple[Tensor, Tensor] | None = None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    judge: int = 10,
) -> tuple[tuple[Finding, ...], list[float]]:
    """All findings of ``rule`` over a run, judged every ``judge`` steps, and the loss of each step."""
    torch.set_num_threads(1)
    inputs, targets = digits() if data is None else data
    generator, loss_function = torch.Generator().manual_seed(1), nn.CrossEntropyLoss()
    monitor = netdoctor.watch(model, reporters=[], rules=[rule], every=5)
    findings: list[Finding] = []
    losses = []
    for step in range(1, steps + 1):
        chosen = torch.randint(0, len(inputs), (batch,), generator=generator)
        loss = loss_function(model(inputs[chosen]), targets[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        if scheduler is not None:
            scheduler.step()
        if validation is not None and step % 20 == 0:
            model.eval()
            with torch.no_grad():
                loss_function(model(validation[0]), validation[1])
            model.train()
        if step % judge == 0:
            verdict = monitor.diagnose()
            assert not [skip for skip in verdict.skipped if skip.reason.startswith("failed")], verdict.skipped
            findings += verdict.findings
    monitor.close()
    return tuple(findings), losses


def findings_of(
    rule: Rule, model: nn.Module, optimizer: torch.optim.Optimizer, loss_of: Callable[[int], Tensor], steps: int
) -> tuple[Finding, ...]:
    """What ``rule`` says after each of ``steps`` steps of a loop whose loss in step ``i`` is ``loss_of(i)``."""
    torch.set_num_threads(1)
    monitor = netdoctor.watch(model, reporters=[], rules=[rule], every=1)
    findings: list[Finding] = []
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss_of(step).backward()
        optimizer.step()
        verdict = monitor.diagnose()
        assert not [skip for skip in verdict.skipped if skip.reason.startswith("failed")], verdict.skipped
        findings += verdict.findings
    monitor.close()
    return tuple(findings)


def descend(optimizer: torch.optim.Optimizer, loss_of: Callable[[int], Tensor], steps: int) -> float:
    """Train on, unwatched; the mean loss of the last tenth."""
    losses = []
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss = loss_of(step)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return sum(losses[-steps // 10 :]) / len(losses[-steps // 10 :])

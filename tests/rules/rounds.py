"""A few watched steps of any model, for the tests of rules that speak at once, and what the rule says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import netdoctor
from netdoctor.findings import Finding, Severity
from netdoctor.rules.base import Rule

Loss = Callable[[Tensor, Tensor], Tensor]


def rounds(
    rule: Rule,
    model: nn.Module,
    batch: Callable[[], tuple[Any, Tensor]],
    loss_function: Loss = nn.functional.mse_loss,
    steps: int = 4,
    optimizer: torch.optim.Optimizer | None = None,
    every: int = 1,
    after: Callable[[int], object] = lambda step: None,
) -> list[Finding]:
    """Findings of ``rule`` alone at the end of some steps; ``after`` is called after each of them."""
    torch.set_num_threads(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01) if optimizer is None else optimizer
    with netdoctor.watch(model, reporters=[], rules=[rule], every=every) as monitor:
        for step in range(1, steps + 1):
            inputs, targets = batch()
            optimizer.zero_grad()
            loss_function(model(inputs), targets).backward()
            optimizer.step()
            after(step)
        verdict = monitor.diagnose()
    assert not [skip for skip in verdict.skipped if skip.reason.startswith("failed") or not skip.rule], verdict.skipped
    return list(verdict.findings)


def loud(findings: list[Finding]) -> list[Finding]:
    """Warnings and errors."""
    return [finding for finding in findings if finding.severity > Severity.NOTE]


def rows(count: int, features: int, outputs: int = 1, seed: int = 0) -> Callable[[], tuple[Tensor, Tensor]]:
    """Batches of ``count`` random rows and a target that depends on them, without a line."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(features, outputs, generator=generator)

    def batch() -> tuple[Tensor, Tensor]:
        inputs = torch.randn(count, features, generator=generator)
        return inputs, torch.sin(inputs @ directions)

    return batch

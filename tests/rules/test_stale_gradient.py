"""stale-gradient on real runs."""

import pytest
import torch
from torch import nn

import netdoctor
from netdoctor.findings import Finding, Severity
from netdoctor.rules.stale_gradient import stale_gradient as rule
from tests.rules.training import digits, mlp


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, clear: int, steps: int = 100, accumulate: int = 1
) -> tuple[tuple[Finding, ...], float]:
    """Gradients are cleared each ``clear`` steps, never where it is 0; the findings, and the last losses' mean."""
    inputs, targets = digits()
    generator = torch.Generator().manual_seed(1)
    monitor = netdoctor.watch(model, reporters=[], rules=[rule], every=5)
    losses = []
    for step in range(steps):
        for _ in range(accumulate):
            chosen = torch.randint(0, len(inputs), (32,), generator=generator)
            loss = nn.functional.cross_entropy(model(inputs[chosen]), targets[chosen]) / accumulate
            loss.backward()
        optimizer.step()
        if clear and step % clear == 0:
            optimizer.zero_grad()
        losses.append(float(loss.detach()))
    findings = monitor.findings
    monitor.close()
    return findings, sum(losses[-20:]) / 20


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_is_found_at_once_and_cured(kind: type[torch.optim.Optimizer]) -> None:
    torch.set_num_threads(1)
    rate = {torch.optim.SGD: 0.2, torch.optim.Adam: 1e-2}[kind]
    model = mlp()
    (found,), worse = train(model, kind(model.parameters(), lr=rate), clear=0)  # type: ignore[call-arg]
    assert found.severity == Severity.ERROR
    assert found.step <= 20
    assert kind.__name__ in found.message
    model = mlp()
    optimizer = kind(model.parameters(), lr=rate)  # type: ignore[call-arg]
    found.remedies[0].apply(model, optimizer)
    findings, better = train(model, optimizer, clear=0)
    assert not findings
    assert better < 0.5 < worse


def test_the_handle_of_the_cure_ends_it() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    (found,), _ = train(model, optimizer, clear=0, steps=25)
    treatment = found.remedies[0].apply(model, optimizer)
    treatment.undo()
    assert train(model, optimizer, clear=0, steps=25)[0]


def test_quiet_where_gradients_are_cleared_or_accumulated() -> None:
    model = mlp()
    assert not train(model, torch.optim.SGD(model.parameters(), lr=0.1), clear=1)[0]
    model = mlp()
    assert not train(model, torch.optim.SGD(model.parameters(), lr=0.1), clear=1, accumulate=4)[0]


def test_of_two_optimizers_none_is_changed_by_itself() -> None:
    """Each pass fills the other's buffers: only a human hand can tell before which pass they are to be cleared."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"g": nn.Linear(2, 3), "d": nn.Linear(3, 1)})
    optimizers = [torch.optim.SGD(part.parameters(), 0.01) for part in model.values()]
    monitor = netdoctor.watch(model, reporters=[], rules=[rule], every=1)
    for step in range(20):
        optimizer = optimizers[step % 2]
        if step % 2:
            optimizer.zero_grad()
        (model["d"](model["g"](torch.randn(5, 2))).mean() * (1 if step % 2 else -1)).backward()
        optimizer.step()
    (found,) = monitor.findings
    monitor.close()
    assert not found.remedies[0].applicable

"""weights-not-updated on real runs."""

import copy
from collections.abc import Iterable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import netdoctor
from netdoctor.findings import Evidence, Finding, Severity
from netdoctor.history import History
from netdoctor.rules.weights_not_updated import fires, quiet, weights_not_updated

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()
SLUG = "weights-not-updated"


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))


def backward(model: nn.Module) -> None:
    F.cross_entropy(model(X), Y).backward()


def told(findings: Iterable[Finding], least: Severity = Severity.WARNING) -> list[Finding]:
    return [finding for finding in findings if finding.rule == SLUG and finding.severity >= least]


@pytest.mark.parametrize("history", fires())
def test_fires(history: History) -> None:
    answers = [a for a in weights_not_updated(history) if isinstance(a, Evidence)]
    assert max(a.severity or Severity.ERROR for a in answers) >= Severity.WARNING


@pytest.mark.parametrize("history", quiet())
def test_quiet(history: History) -> None:
    answers = [a for a in weights_not_updated(history) if isinstance(a, Evidence)]
    assert all(a.severity is Severity.NOTE for a in answers)


def test_optimizer_of_another_copy_is_found_and_takes_over() -> None:
    old = network()
    optimizer = torch.optim.Adam(old.parameters(), lr=0.01)
    model = copy.deepcopy(old)
    with netdoctor.watch(model, reporters=[]) as monitor:
        for _ in range(25):
            optimizer.zero_grad()
            backward(model)
            optimizer.step()
        (finding,) = told(monitor.findings)
        assert finding.severity is Severity.ERROR
        before = F.cross_entropy(model(X), Y).item()
        finding.remedies[0].apply(model, optimizer)
        for _ in range(100):
            optimizer.zero_grad()
            backward(model)
            optimizer.step()
        assert F.cross_entropy(model(X), Y).item() < before / 2
        assert not told(monitor.diagnose().findings)


def test_forgotten_step_is_found() -> None:
    model = network()
    torch.optim.SGD(model.parameters(), lr=0.1)
    with netdoctor.watch(model, reporters=[]) as monitor:
        for _ in range(60):
            backward(model)
        assert not told(monitor.findings)
        for _ in range(60):
            backward(model)
        (finding,) = told(monitor.findings)
        assert "100 backward passes" in finding.message


@pytest.mark.parametrize("loop", ["accumulation", "by hand", "another model"])
def test_healthy_loops_without_an_early_step(loop: str) -> None:
    model, other = network(), network()
    optimizer = torch.optim.SGD((other if loop == "another model" else model).parameters(), lr=0.1)
    with netdoctor.watch(model, reporters=[]) as monitor:
        for step in range(1, 257):
            backward(other if loop == "another model" else model)
            if loop == "by hand":
                for parameter in model.parameters():
                    assert parameter.grad is not None
                    parameter.data -= 0.1 * parameter.grad
                    parameter.grad = None
            elif loop == "another model" or step % 64 == 0:
                optimizer.step()
                optimizer.zero_grad()
        assert not told(monitor.diagnose().findings, Severity.NOTE)
        assert not told(monitor.findings, Severity.NOTE)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, warm_up: int = 0) -> list[Finding]:
    with netdoctor.watch(model, reporters=[], every=5) as monitor:
        for step in range(steps):
            if warm_up:
                optimizer.param_groups[0]["lr"] = 0.1 * (step >= warm_up)
            x = X.to(next(model.parameters()).dtype)
            loss = F.cross_entropy(model(x).float(), Y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return list(monitor.findings)


def test_learning_rate_zero_is_an_error_and_a_warm_up_from_zero_is_not() -> None:
    model = network()
    (finding,) = told(train(model, torch.optim.SGD(model.parameters(), lr=0.0), 80))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    exec(finding.remedies[0].code, {"optimizer": optimizer})
    assert optimizer.param_groups[0]["lr"] == 0.1
    model = network()
    assert not told(train(model, torch.optim.SGD(model.parameters(), lr=0.0), 100, warm_up=50), Severity.NOTE)


def test_half_precision_weights_that_round_every_step_away() -> None:
    model = network().to(torch.bfloat16)
    (finding,) = told(train(model, torch.optim.SGD(model.parameters(), lr=1e-4), 60))
    assert "number format" in finding.message
    finding.remedies[0].apply(model)
    assert next(model.parameters()).dtype is torch.float32
    assert not told(train(model, torch.optim.SGD(model.parameters(), lr=1e-4), 60))


class Rebinding(torch.optim.Optimizer):
    """Computes new weights and leaves the old ones as they are."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, {"lr": 0.1})

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                p = p - group["lr"] * p.grad


def test_an_optimizer_that_binds_new_weights_to_an_old_name() -> None:
    model = network()
    optimizer = Rebinding(model.parameters())
    with netdoctor.watch(model, reporters=[]) as monitor:
        for _ in range(12):
            optimizer.zero_grad()
            backward(model)
            optimizer.step()
    (finding,) = told(monitor.findings)
    assert finding.rule == SLUG
    assert "does not write" in finding.message
    assert "p.add_(" in finding.remedies[0].code
    assert not finding.remedies[0].applicable


def test_trained_parameters_of_no_optimizer_are_a_note() -> None:
    model = network()
    train(model, torch.optim.SGD(model.parameters(), lr=0.5), 100)
    findings = train(model, torch.optim.SGD(model[2].parameters(), lr=0.1), 60)
    assert not told(findings)
    (note,) = told(findings, Severity.NOTE)
    assert note.layers == ("0",)


def test_random_parameters_of_no_optimizer_are_a_warning_and_get_one() -> None:
    model = network()
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    (finding,) = told(train(model, optimizer, 60))
    assert finding.severity is Severity.WARNING
    assert finding.layers == ("0",)
    assert finding.step <= 25
    finding.remedies[0].apply(model, optimizer)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4
    assert not told(train(model, optimizer, 60), Severity.NOTE)


@pytest.mark.parametrize(("added", "severity"), [(True, None), (False, Severity.WARNING)])
def test_layers_thawed_without_the_optimizer(added: bool, severity: Severity | None) -> None:
    model = network()
    nn.init.orthogonal_(model[0].get_parameter("weight"))  # trained weights, as far as can be told
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    monitor = netdoctor.watch(model, reporters=[], rules=[weights_not_updated], every=1)
    for step in range(60):
        if step == 25:
            model[0].requires_grad_(True)
            if added:
                optimizer.add_param_group({"params": model[0].parameters(), "lr": 0.01})
        optimizer.zero_grad()
        backward(model)
        optimizer.step()
    found = monitor.diagnose().findings
    monitor.close()
    assert [finding.severity for finding in found] == ([] if severity is None else [severity])
    if severity is not None:
        assert "since step 26, having been frozen before" in found[0].message
        assert found[0].layers == ("0",)
        found[0].remedies[0].apply(model, optimizer)
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        assert held == {id(p) for p in model.parameters()}


@pytest.mark.parametrize(("rounds", "severity"), [(4, Severity.WARNING), (140, Severity.NOTE)])
def test_a_schedule_that_was_over_before_half_of_the_run(rounds: int, severity: Severity) -> None:
    torch.manual_seed(0)
    model, truth = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)), torch.randn(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: max(0.0, 1 - done / rounds))
    monitor = netdoctor.watch(model, reporters=[], rules=[weights_not_updated], every=1)
    for _ in range(220):
        x = torch.randn(64, 8)
        optimizer.zero_grad()
        F.mse_loss(model(x), x @ truth).backward()
        optimizer.step()
        schedule.step()
    (found,) = monitor.diagnose().findings
    monitor.close()
    assert found.severity is severity
    assert ("agree" in found.message) == (severity is Severity.WARNING)

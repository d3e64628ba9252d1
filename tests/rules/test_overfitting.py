"""overfitting on real runs."""

import pytest
import torch
from torch import nn

import netdoctor
from netdoctor.rules.overfitting import overfitting as rule
from tests.rules.training import digits, mlp, train


def test_is_found_with_its_best_step_and_remedies() -> None:
    inputs, targets = digits(noise=0.3)
    small, validation = (inputs[:200], targets[:200]), (inputs[1000:], targets[1000:])
    model = mlp(width=256)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    findings, _ = train(rule, model, optimizer, 240, small, 20, validation)
    assert findings[0].step <= 140
    assert "; training has seen each sample about 2" in findings[-1].message
    assert findings[-1].readings[-1].value == pytest.approx(24, rel=0.2)
    best = findings[-1].readings[1].steps[0]
    assert best <= 60
    stop, decay, dropout, augment = findings[-1].remedies
    assert f"step {best}" in stop.action
    decay.apply(model, optimizer)
    assert optimizer.param_groups[0]["weight_decay"] == 1e-3
    x, y = small
    exec(augment.code, {"torch": torch, "model": model, "x": x, "y": y, "loss_fn": nn.CrossEntropyLoss()})
    exec(dropout.code, {"model": model, "nn": nn})
    assert sum(isinstance(module, nn.Dropout) for module in model.modules()) == 2

    model = mlp(width=256)
    again, _ = train(rule, model, torch.optim.Adam(model.parameters(), lr=3e-3), best, small, 20, validation)
    assert not again  # stopped where it says


@pytest.mark.parametrize("seed", range(3))
def test_quiet_on_healthy_runs_and_small_validation_sets(seed: int) -> None:
    inputs, targets = digits()
    for end in (1797, 1430):
        model = mlp(seed)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        data, validation = (inputs[:1400], targets[:1400]), (inputs[1400:end], targets[1400:end])
        assert not train(rule, model, optimizer, 300, data, validation=validation)[0]


def test_a_row_of_weights_for_each_sample_is_found_before_all_is_known_by_heart() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = torch.randn(500, 6), torch.randn(500, 1)
    y += 0.4 * x[:, :1]

    class Indexed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows, self.body = nn.Embedding(500, 8), nn.Linear(14, 1)

        def forward(self, numbers: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.body(torch.cat((x[numbers], self.rows(numbers)), 1))
            return out

    model = Indexed()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    monitor = netdoctor.watch(model, reporters=[], rules=[rule], every=5)
    for step in range(1, 301):
        chosen = torch.randint(0, 400, (40,))
        loss = nn.functional.mse_loss(model(chosen), y[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            with torch.no_grad():
                nn.functional.mse_loss(model(torch.arange(400, 500)), y[400:])
    findings = monitor.diagnose().findings
    monitor.close()
    assert findings

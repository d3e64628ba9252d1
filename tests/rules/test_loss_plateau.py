"""loss-plateau on real runs."""

import pytest
import torch

import netdoctor
from netdoctor.findings import Severity
from netdoctor.history import History
from netdoctor.rules.loss_plateau import loss_plateau as rule
from tests.rules.training import mlp, train


def linear(lr: float, decay: int | None = None, steps: int = 600) -> tuple[History, float]:
    """A noisy linear regression that levels off above its noise floor, 4; its history and last level."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(20, 1, generator=generator)
    torch.manual_seed(0)
    model = torch.nn.Linear(20, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    monitor = netdoctor.watch(model, reporters=[], rules=[rule], every=5)
    losses = []
    for step in range(steps):
        x = torch.randn(8, 20, generator=generator)
        loss = torch.nn.functional.mse_loss(model(x), x @ truth + 2 * torch.randn(8, 1, generator=generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == decay:
            optimizer.param_groups[0]["lr"] *= 0.1
        losses.append(float(loss.detach()))
    monitor.diagnose()
    monitor.close()
    return monitor.history, sum(losses[-200:]) / 200


def test_a_plateau_is_a_note_with_its_step_and_the_decay_helps() -> None:
    history, level = linear(0.05)
    (found,) = rule(history)
    assert rule.severity == Severity.NOTE
    assert "since step" in found.message  # type: ignore[union-attr]
    decayed, lower = linear(0.05, decay=300)
    assert lower < 0.95 * level
    assert not rule(decayed)


def test_its_code_runs() -> None:
    (found,) = rule(linear(0.05)[0])
    for remedy in found.remedies:  # type: ignore[union-attr]
        exec(remedy.code, {"torch": torch, "optimizer": torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)})


@pytest.mark.parametrize("seed", range(2))
def test_quiet_while_the_loss_falls_and_after_it_converged(seed: int) -> None:
    for kind, lr in ((torch.optim.SGD, 0.03), (torch.optim.Adam, 1e-3)):
        model = mlp(seed)
        assert not train(rule, model, kind(model.parameters(), lr=lr), 450, judge=50)[0]


def test_a_warning_where_the_steps_hold_up_a_quarter_of_the_loss() -> None:
    history, level = linear(0.15)
    (found,) = rule(history)
    assert found.severity == Severity.WARNING  # type: ignore[union-attr]
    assert linear(0.15, decay=300)[1] < 0.75 * level

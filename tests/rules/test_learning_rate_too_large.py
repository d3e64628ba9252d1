"""learning-rate-too-large on real runs."""

import pytest
import torch

from netdoctor.findings import Severity
from netdoctor.rules.learning_rate_too_large import learning_rate_too_large as rule
from tests.rules.training import digits, mlp, train


@pytest.mark.parametrize(
    ("kind", "lr", "step"),
    [(torch.optim.SGD, 1.0, 60), (torch.optim.SGD, 3.0, 20), (torch.optim.SGD, 10.0, 10), (torch.optim.Adam, 1.0, 10)],
)
def test_is_found_and_cured(kind: type[torch.optim.Optimizer], lr: float, step: int) -> None:
    model = mlp()
    findings, _ = train(rule, model, kind(model.parameters(), lr=lr), 60)  # type: ignore[call-arg]
    assert findings[0].step <= step
    model = mlp()
    optimizer = kind(model.parameters(), lr=lr)  # type: ignore[call-arg]
    findings[0].remedies[0].apply(model, optimizer)
    findings, losses = train(rule, model, optimizer, 300)
    assert not findings
    assert sum(losses[-20:]) / 20 < 0.5  # from 2.3


def test_adagrads_first_steps_are_not_judged() -> None:
    """They are its largest: the loss jumps at first, and is soon below where it began."""
    model = mlp()
    findings, losses = train(rule, model, torch.optim.Adagrad(model.parameters(), lr=0.1), 60, judge=1)
    assert max(losses[:10]) > 2 * losses[0]
    assert losses[-1] < losses[0]
    assert not findings


def test_a_loss_that_is_lost_is_an_error_with_a_number() -> None:
    model = mlp()
    inputs, targets = digits()
    data = 20 * inputs, targets
    findings, losses = train(rule, model, torch.optim.SGD(model.parameters(), lr=100.0), 40, data)
    assert not all(loss < float("inf") for loss in losses)
    assert findings[-1].severity == Severity.ERROR
    assert "lost" in findings[-1].message
    exec(findings[-1].remedies[1].code, {"torch": torch, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)})


def test_not_blamed_for_nan_in_the_data() -> None:
    model = mlp()
    inputs, targets = digits()
    inputs[::50] = float("nan")
    assert not train(rule, model, torch.optim.SGD(model.parameters(), lr=0.05), 40, (inputs, targets))[0]


@pytest.mark.parametrize("seed", range(3))
def test_quiet_on_healthy_runs(seed: int) -> None:
    for kind, lr, batch in ((torch.optim.SGD, 0.1, 32), (torch.optim.SGD, 0.6, 512), (torch.optim.Adam, 3e-3, 32)):
        model = mlp(seed)  # the second bounces at the edge of stability and learns
        assert not train(rule, model, kind(model.parameters(), lr=lr), 120, batch=batch)[0]

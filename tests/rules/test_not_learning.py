"""not-learning on real runs."""

import pytest
import torch

from netdoctor.findings import Severity
from netdoctor.rules.not_learning import not_learning as rule
from tests.rules.training import digits, mlp, train


def test_constant_inputs() -> None:
    inputs, targets = digits()
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    findings, _ = train(rule, model, optimizer, 200, (torch.zeros_like(inputs), targets))
    assert findings[0].step == 80
    assert findings[0].severity == Severity.WARNING
    assert "best constant prediction" in findings[0].message
    loader = [(inputs[:32], targets[:32])]
    scope = {"loader": loader, "model": mlp(), "loss_fn": torch.nn.CrossEntropyLoss(), "torch": torch}
    scope["optimizer"] = torch.optim.Adam(scope["model"].parameters(), lr=1e-3)  # type: ignore[attr-defined]
    for remedy in findings[0].remedies[:2]:
        exec(remedy.code, scope)
    assert float(scope["loss"]) < 0.05  # type: ignore[arg-type]  # the program is sound: the data are at fault


@pytest.mark.parametrize("seed", range(2))
def test_random_labels(seed: int) -> None:
    model, noise = mlp(seed), torch.Generator().manual_seed(seed)
    many = torch.randn(20_000, 64, generator=noise), torch.randint(0, 10, (20_000,), generator=noise)
    assert train(rule, model, torch.optim.SGD(model.parameters(), lr=0.05), 200, many)[0]


@pytest.mark.parametrize("seed", range(2))
def test_quiet_on_healthy_runs(seed: int) -> None:
    for kind, lr in ((torch.optim.SGD, 0.1), (torch.optim.SGD, 0.01), (torch.optim.Adam, 1e-3)):
        model = mlp(seed)
        assert not train(rule, model, kind(model.parameters(), lr=lr), 250, judge=50)[0]


def test_quiet_in_a_warm_up() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1e-4, total_iters=20_000)
    assert not train(rule, model, optimizer, 250, scheduler=warm)[0]

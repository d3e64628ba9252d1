"""learning-rate-too-small on real runs."""

import itertools

import pytest
import torch
from torch import nn

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


def test_quiet_where_only_the_early_layers_stand_still() -> None:
    torch.manual_seed(0)
    sizes = (64, *[64] * 6)
    hidden = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), nn.Sigmoid())]
    model = nn.Sequential(*hidden, nn.Linear(64, 10))
    assert not train(rule, model, torch.optim.SGD(model.parameters(), lr=0.1), 100)[0]  # gradients vanish

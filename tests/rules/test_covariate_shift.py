"""covariate-shift on real runs: inputs that jump while training stalls, and BatchNorm, which holds them."""

from __future__ import annotations

import pytest
import torch
from sklearn import datasets
from torch import Tensor, nn

from netdoctor.history import History
from netdoctor.rules.covariate_shift import covariate_shift, fires, quiet
from tests.rules.training import digits, mlp, train


def deep(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    hidden = [layer for _ in range(5) for layer in (nn.Linear(64, 64), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(64, 10))


def features() -> tuple[Tensor, Tensor]:
    """Digits, each pixel standardised."""
    x, y = datasets.load_digits(return_X_y=True)
    return torch.tensor((x - x.mean(0)) / (x.std(0) + 1e-6), dtype=torch.float32), torch.tensor(y)


def sgd(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr)


def mean_loss(losses: list[float]) -> float:
    return sum(losses[-10:]) / 10


@pytest.mark.parametrize("history", fires())
def test_fires(history: History) -> None:
    assert len(covariate_shift(history)) == 1


@pytest.mark.parametrize("history", quiet())
def test_quiet(history: History) -> None:
    assert not [answer for answer in covariate_shift(history) if hasattr(answer, "message")]


@pytest.mark.parametrize("seed", range(3))
def test_large_steps_in_a_deep_net_are_found_and_batch_norm_cures_them(seed: int) -> None:
    model = deep(seed)
    optimizer = sgd(model, 2.0)
    findings, losses = train(covariate_shift, model, optimizer, 150, features(), batch=64)
    assert mean_loss(losses) > 2.0
    assert findings
    assert set(findings[-1].layers) <= {"2", "4", "6", "8", "10"}  # never the first, whose input is the data
    cured = deep(seed)
    optimizer = sgd(cured, 2.0)
    exec(findings[-1].remedies[0].code, {"model": cured, "optimizer": optimizer, "nn": nn})
    assert [type(part[1]) for part in cured if isinstance(part, nn.Sequential)] == [nn.BatchNorm1d] * 5
    assert len(optimizer.param_groups) == 6
    findings, losses = train(covariate_shift, cured, optimizer, 300, features(), batch=64)
    assert mean_loss(losses) < 0.7
    assert not findings


@pytest.mark.parametrize("seed", range(2))
def test_runs_that_learn_are_quiet(seed: int) -> None:
    for model, lr in ((mlp(seed), 0.1), (deep(seed), 0.1), (mlp(seed), 0.5)):
        assert not train(covariate_shift, model, sgd(model, lr), 200)[0]


def test_runs_that_stall_for_other_reasons_are_quiet() -> None:
    model = mlp()
    assert not train(covariate_shift, model, sgd(model, 1e-5), 150)[0]
    model = mlp()
    assert not train(covariate_shift, model, sgd(model, 0.05), 150, digits(noise=1.0))[0]
    model = mlp()
    assert not train(covariate_shift, model, sgd(model, 1e-3), 60, batch=4)[0]


class Routed(nn.Module):
    """Each row goes to one of six experts."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(64, 6)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 10)) for _ in range(6)
        )

    def forward(self, x: Tensor) -> Tensor:
        share, chosen = self.gate(x).softmax(1).max(1)
        out = x.new_zeros(len(x), 10)
        for number, expert in enumerate(self.experts):
            rows = (chosen == number).nonzero().squeeze(1)
            if len(rows):
                out = out.index_add(0, rows, share[rows].unsqueeze(1) * expert(x[rows]))
        return out


def test_quiet_on_experts_that_get_other_samples_each_time() -> None:
    torch.manual_seed(0)
    model = Routed()
    inputs, _ = digits()
    labels = torch.randint(0, 10, (len(inputs),))
    findings, _ = train(covariate_shift, model, sgd(model, 0.01), 80, (inputs, labels), batch=16)
    assert not findings

"""dead-units on real runs: silent layers are named, busy and learning ones never."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from netdoctor.history import History
from netdoctor.rules.dead_units import dead_units, fires, quiet
from tests.rules.rounds import rounds
from tests.rules.training import digits, mlp, train


def deep(seed: int = 0, function: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(seed)
    hidden = [layer for _ in range(5) for layer in (nn.Linear(64, 64), function())]
    return nn.Sequential(*hidden, nn.Linear(64, 10))


def with_biases(model: nn.Sequential, bias: float) -> nn.Sequential:
    with torch.no_grad():
        for layer in list(model)[:-1]:
            if isinstance(layer, nn.Linear):
                layer.bias.fill_(bias)
    return model


def sgd(lr: float) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: torch.optim.SGD(model.parameters(), lr)


def adam(lr: float) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: torch.optim.Adam(model.parameters(), lr)


@pytest.mark.parametrize("history", fires())
def test_fires(history: History) -> None:
    assert len(dead_units(history)) == 1


@pytest.mark.parametrize("history", quiet())
def test_quiet(history: History) -> None:
    assert not [answer for answer in dead_units(history) if hasattr(answer, "message")]


@pytest.mark.parametrize("seed", range(3))
def test_a_layer_that_is_silent_from_the_start_is_found_at_once(seed: int) -> None:
    model = with_biases(mlp(seed), -10.0)
    findings, _ = train(dead_units, model, sgd(0.1)(model), 5, judge=5)
    assert findings[0].layers == ("0", "2")
    assert findings[0].message.startswith("All 64 units of layer 0 (and of 1 more)")


@pytest.mark.parametrize("make", [sgd(0.1), adam(1e-3)])
@pytest.mark.parametrize("build", [mlp, deep, lambda seed: deep(seed, nn.GELU), lambda seed: deep(seed, nn.LeakyReLU)])
def test_healthy_runs_are_quiet(build: Callable[[int], nn.Module], make: Callable[..., torch.optim.Optimizer]) -> None:
    for seed in range(2):
        model = build(seed)
        assert not train(dead_units, model, make(model), 120)[0]


def test_other_functions_are_never_called_dead() -> None:
    for function in (nn.LeakyReLU, nn.GELU, nn.Tanh):
        model = with_biases(deep(0, function), -10.0)
        assert not train(dead_units, model, sgd(1e-4)(model), 30)[0]


def test_a_relu_at_the_output_that_is_asked_for_less_than_nothing() -> None:
    torch.manual_seed(0)
    last = nn.Linear(24, 8)
    nn.init.constant_(last.bias, -5.0)
    model = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), last, nn.ReLU())
    x = torch.randn(64, 6)
    (finding,) = rounds(dead_units, model, lambda: (x, -x[:, :1].expand(64, 8).exp()), steps=5)
    assert finding.layers == ("2",)
    finding.remedies[0].apply(model)
    assert isinstance(model[3], nn.Identity)
    assert isinstance(model[1], nn.ReLU)


def test_labels_without_meaning_and_tiny_steps_are_not_this() -> None:
    model = mlp()
    assert not train(dead_units, model, sgd(1e-5)(model), 100)[0]
    model = mlp()
    assert not train(dead_units, model, sgd(0.05)(model), 150, digits(noise=1.0))[0]


class Functional(nn.Module):
    """ReLU6 and ReLU as functions, and a batch norm before one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.c = nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Linear(32, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.c(self.b(self.norm(self.a(x)).relu()).relu())
        return hidden


def test_functions_and_norms_are_seen_too() -> None:
    torch.manual_seed(0)
    model = Functional()
    with torch.no_grad():
        model.norm.bias.fill_(-20.0)
    findings, _ = train(dead_units, model, sgd(0.1)(model), 20)
    assert findings[-1].layers[0] == "norm"
    assert "F.leaky_relu" in findings[-1].remedies[0].code
    assert not findings[-1].remedies[0].applicable


def test_relu6_modules_are_seen_through_their_output() -> None:
    model = with_biases(deep(0, nn.ReLU6), -20.0)
    findings, _ = train(dead_units, model, sgd(0.1)(model), 5, judge=5)
    assert findings[0].layers[0] == "0"


def mean_loss(losses: list[float]) -> float:
    return sum(losses[-10:]) / 10


@pytest.mark.parametrize("apply", [True, False])
@pytest.mark.parametrize("case", ["biases", "steps"])
def test_the_first_remedy_cures(case: str, apply: bool) -> None:
    model = with_biases(deep(), -3.0) if case == "biases" else deep()
    optimizer = sgd(0.1)(model) if case == "biases" else adam(0.3)(model)
    findings, losses = train(dead_units, model, optimizer, 80)
    assert mean_loss(losses) > 2.2
    remedy = findings[-1].remedies[0]
    if apply:
        remedy.apply(model, optimizer)
    else:
        exec(remedy.code, {"model": model, "optimizer": optimizer, "nn": nn, "torch": torch})
    optimizer.state.clear()  # no memory of the old weights
    _, losses = train(dead_units, model, optimizer, 300)
    assert mean_loss(losses) < 1.0


def test_leaky_units_come_back() -> None:
    model = with_biases(mlp(), -2.0)
    optimizer = adam(3e-3)(model)
    findings, _ = train(dead_units, model, optimizer, 30)
    exec(findings[-1].remedies[1].code, {"model": model, "nn": nn})
    assert isinstance(model[3], nn.LeakyReLU)
    findings, losses = train(dead_units, model, optimizer, 300)
    assert mean_loss(losses) < 1.0

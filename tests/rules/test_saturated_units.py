"""saturated-units on real runs: hidden layers at their bounds are named where nothing is learned."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from netdoctor.facts import Facts, Layer, Parameter
from netdoctor.findings import Evidence
from netdoctor.history import History
from netdoctor.rules.saturated_units import fires, quiet, saturated_units
from tests.rules.training import digits, train


def network(function: type[nn.Module] = nn.Tanh, factor: float = 1.0, seed: int = 0, depth: int = 3) -> nn.Sequential:
    torch.manual_seed(seed)
    hidden = [layer for _ in range(depth) for layer in (nn.Linear(64, 64), function())]
    model = nn.Sequential(*hidden, nn.Linear(64, 10))
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(factor)
    return model


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr)


def test_weights_that_the_training_made_large_are_not_made_anew() -> None:
    columns = {name: [0.9] * 40 for name in ("0", "2")}
    layers = (
        Layer("0", "linear", "Linear", "", 64, 64, 64, "tanh", called=True),
        Layer("1", "activation", "Tanh", "tanh", inputs=("0",), called=True),
        Layer("2", "linear", "Linear", "", 64, 64, 64, "tanh", ("1",), called=True),
        Layer("3", "activation", "Tanh", "tanh", inputs=("2",), called=True),
        Layer("4", "linear", "Linear", "", 64, 10, 10, inputs=("3",), called=True),
    )
    parameters = tuple(Parameter(f"{name}.weight", name, (64, 64), "weight", group=0) for name in ("0", "2", "4"))
    advised = []
    for start in (0.21, 2.1):
        history = History.of(
            Facts(layers=layers, parameters=parameters),
            saturated_share=columns,
            loss=[2.3] * 40,
            constant_loss=[2.3] * 40,
            weight_std={f"{name}.weight": [start, *[2.1] * 39] for name in ("0", "2", "4")},
        )
        (evidence,) = saturated_units(history)
        assert isinstance(evidence, Evidence)
        advised.append(evidence.remedies[0].action)
    assert advised[0].startswith("Normalise")
    assert advised[1].startswith("Initialise")


def mean_loss(losses: list[float]) -> float:
    return sum(losses[-10:]) / 10


@pytest.mark.parametrize("history", fires())
def test_fires(history: History) -> None:
    assert len(saturated_units(history)) == 1


@pytest.mark.parametrize("history", quiet())
def test_quiet(history: History) -> None:
    assert not [answer for answer in saturated_units(history) if hasattr(answer, "message")]


@pytest.mark.parametrize(("function", "factor"), [(nn.Tanh, 30.0), (nn.Sigmoid, 50.0)])
@pytest.mark.parametrize("seed", range(3))
def test_large_weights_are_found_within_five_steps(function: type[nn.Module], factor: float, seed: int) -> None:
    model = network(function, factor, seed)
    (finding,) = train(saturated_units, model, sgd(model), 5, judge=5)[0]
    assert set(finding.layers) == {"0", "2", "4"}
    assert "× those that keep the variance" in finding.message


@pytest.mark.parametrize("function", [nn.Tanh, nn.Sigmoid, nn.Softsign])
def test_healthy_runs_are_quiet(function: type[nn.Module]) -> None:
    for make in (sgd, lambda model: torch.optim.Adam(model.parameters(), 3e-3)):
        for seed in range(2):
            model = network(function, seed=seed, depth=2)
            assert not train(saturated_units, model, make(model), 150)[0]


def test_inputs_of_0_to_16_saturate_the_first_layer_and_train_all_the_same() -> None:
    x, y = digits()
    model = network()
    findings, losses = train(saturated_units, model, sgd(model), 200, (x * 6 + 4.9, y))
    assert not findings
    assert mean_loss(losses) < 0.3


class Gated(nn.Module):
    """A tanh output, a sigmoid gate and an LSTM, all of them saturated by large weights."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.gate = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 16)
        self.hidden, self.out = nn.Linear(16, 16), nn.Linear(16, 10)
        with torch.no_grad():
            self.rnn.get_parameter("weight_ih_l0").mul_(100)
            self.gate.weight.mul_(1000)
            self.out.weight.mul_(1000)

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.rnn(x.view(-1, 8, 8))[0][:, -1]
        return torch.tanh(self.out(self.hidden(states).relu() * torch.sigmoid(self.gate(states))))


def test_gates_outputs_and_recurrent_layers_may_saturate() -> None:
    torch.manual_seed(0)
    model = Gated()
    assert not train(saturated_units, model, sgd(model, 1e-4), 60)[0]


@pytest.mark.parametrize("apply", [True, False])
@pytest.mark.parametrize("case", ["weights", "steps"])
def test_the_first_remedy_cures(case: str, apply: bool) -> None:
    model = network(factor=30.0 if case == "weights" else 1.0)
    optimizer = sgd(model) if case == "weights" else torch.optim.Adam(model.parameters(), 0.3)
    findings, losses = train(saturated_units, model, optimizer, 60)
    assert mean_loss(losses) > 2.2
    remedy = findings[-1].remedies[0]
    if apply:
        remedy.apply(model, optimizer)
    else:
        exec(remedy.code, {"model": model, "optimizer": optimizer, "nn": nn, "torch": torch})
    optimizer.state.clear()  # no memory of the old weights
    findings, losses = train(saturated_units, model, optimizer, 200)
    assert mean_loss(losses) < 0.5
    assert not findings

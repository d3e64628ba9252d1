"""vanishing-gradient on real runs: sick, healthy, cured."""

from collections.abc import Sequence

import pytest
import torch
from torch import nn

import netdoctor
from netdoctor.findings import Evidence, Severity
from netdoctor.history import History
from netdoctor.remedies import GAINS
from netdoctor.rules.vanishing_gradient import fires, quiet, vanishing_gradient

X = torch.randn(512, 32, generator=torch.Generator().manual_seed(0))
Y = (X[:, :2] > 0).long() @ torch.tensor([1, 2])


def network(depth: int, function: type[nn.Module], seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    hidden = [layer for _ in range(depth) for layer in (nn.Linear(32, 32), function())]
    return nn.Sequential(*hidden, nn.Linear(32, 4))


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, every: int | None = 1
) -> tuple[History, float]:
    with netdoctor.watch(model, reporters=[], every=every) as monitor:
        for step in range(steps):
            batch = slice(step * 64 % 512, step * 64 % 512 + 64)
            loss = nn.functional.cross_entropy(model(X[batch]), Y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        monitor.diagnose()
        return monitor.history, float(monitor.history.series("loss")[1][-20:].mean())


def warnings(history: History) -> list[Evidence]:
    answers = vanishing_gradient(history)
    return [a for a in answers if isinstance(a, Evidence) and (a.severity or Severity.WARNING) >= Severity.WARNING]


@pytest.mark.parametrize("history", fires())
def test_fires(history: History) -> None:
    assert warnings(history)


@pytest.mark.parametrize("history", quiet())
def test_quiet(history: History) -> None:
    assert not warnings(history)


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_deep_sigmoid_stack_is_found_within_five_steps_with_its_first_layers(name: str) -> None:
    model = network(8, nn.Sigmoid)
    history, _ = train(model, getattr(torch.optim, name)(model.parameters(), lr=1e-3), 5)
    (found,) = warnings(history)
    assert found.layers[0] == "0"
    assert "16" not in found.layers


@pytest.mark.parametrize("function", [nn.ReLU, nn.Tanh, nn.GELU])
@pytest.mark.parametrize("seed", range(3))
def test_shallow_networks_are_healthy_all_along(function: type[nn.Module], seed: int) -> None:
    model = network(3, function, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(3):
        assert not warnings(train(model, optimizer, 20)[0])


def run_code(code: str, model: nn.Module) -> None:
    exec(code, {"model": model, "nn": nn, "torch": torch})


def test_first_remedy_cures_by_apply_and_by_its_code() -> None:
    sick = network(8, nn.Sigmoid)
    optimizer = torch.optim.SGD(sick.parameters(), lr=0.1)
    history, before = train(sick, optimizer, 100, every=5)
    (found,) = warnings(history)
    assert before > 1.3  # ln 4 is 1.39
    remedy = found.remedies[0]
    twin = network(8, nn.Sigmoid)
    run_code(remedy.code, twin)
    remedy.apply(sick, optimizer)
    for model in (sick, twin):
        history, after = train(model, torch.optim.SGD(model.parameters(), lr=0.1), 200, every=5)
        assert after < 0.7
        assert not warnings(history)


def test_small_weights_of_relu_layers_get_kaiming() -> None:
    model = network(8, nn.ReLU)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)
    history, _ = train(model, torch.optim.SGD(model.parameters(), lr=0.1), 60)
    (found,) = warnings(history)
    run_code(found.remedies[0].code, model)
    layers: Sequence[nn.Linear] = [layer for layer in model if isinstance(layer, nn.Linear)]
    assert float(layers[0].weight.detach().std()) == pytest.approx(GAINS["relu"] / 32**0.5, rel=0.1)


def test_zero_initialised_head_frozen_layers_and_dead_units_are_no_vanishing() -> None:
    for change in ("head", "frozen"):
        model = network(4, nn.ReLU)
        if change == "head":
            nn.init.zeros_(model.get_parameter("8.weight"))
        else:
            model[:4].requires_grad_(False)
        trainable = [p for p in model.parameters() if p.requires_grad]
        history, _ = train(model, torch.optim.SGD(trainable, lr=1e-3), 80)
        assert not warnings(history)

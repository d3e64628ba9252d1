"""Units that stay copies of each other: found after two updates, and not where one step breaks the symmetry."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import netdoctor
from netdoctor.findings import Evidence, Severity
from netdoctor.rules.symmetric_initialization import symmetric_initialization


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def mlp(weight: float | None = None, nonlinearity: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(8, 16), nonlinearity(), nn.Linear(16, 16), nonlinearity(), nn.Linear(16, 3))
    for layer in model:
        if isinstance(layer, nn.Linear) and weight is not None:
            nn.init.constant_(layer.weight, weight)
            nn.init.zeros_(layer.bias)
    return model


class LowRank(nn.Module):
    """A layer with a LoRA beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.whole, self.down = nn.Linear(8, 16), nn.Linear(8, 2, bias=False)
        self.up, self.head = nn.Linear(2, 16, bias=False), nn.Linear(16, 3)
        self.whole.requires_grad_(False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.head((self.whole(x) + self.up(self.down(x))).relu())


def evidence(model: nn.Module, steps: int = 6, learning_rate: float = 1e-2) -> list[Evidence]:
    torch.manual_seed(0)
    x = torch.randn(64, 8)
    y = (x[:, :3]).argmax(1)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], learning_rate)
    with netdoctor.watch(model, reporters=[], rules=[]) as monitor:
        for _ in range(steps):
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
        return [each for each in symmetric_initialization(monitor.history) if isinstance(each, Evidence)]


def test_constant_weights_stay_equal_and_the_remedy_ends_it():
    torch.manual_seed(0)
    model = mlp(0.1)
    (found,) = evidence(model)
    assert found.layers[:2] == ("0", "2")
    assert symmetric_initialization.severity == Severity.ERROR
    exec(found.remedies[0].code, {"model": model, "nn": nn})
    assert evidence(model) == []


@pytest.mark.parametrize("nonlinearity", [nn.ReLU, nn.Tanh])
def test_weights_of_zero_never_move(nonlinearity):
    (found,) = evidence(mlp(0.0, nonlinearity))
    assert found.layers == ("0", "2", "4")


def test_applying_the_remedy_breaks_the_symmetry():
    model = mlp(0.0)
    (found,) = evidence(model)
    found.remedies[0].apply(model)
    assert evidence(model) == []


def test_recurrent_layers_get_torchs_own_scheme():
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.RNN(4, 8, batch_first=True), nn.Linear(8, 3)
            for parameter in self.parameters():
                nn.init.constant_(parameter, 0.1)

        def forward(self, x):
            return self.head(self.cell(x.view(-1, 2, 4))[0][:, -1])

    model = Reader()
    (found,) = evidence(model)
    assert found.layers == ("cell",)
    found.remedies[-1].apply(model)
    assert evidence(model) == []


def zero_last() -> nn.Module:
    model = mlp()
    with torch.no_grad():
        model.get_parameter("4.weight").zero_()
    return model


def one_constant() -> nn.Module:
    model = mlp()
    with torch.no_grad():
        model.get_parameter("0.weight").fill_(0.1)
    return model


def zero_classifier() -> nn.Module:
    model = nn.Linear(8, 3)
    nn.init.zeros_(model.weight)
    return model


@pytest.mark.parametrize("make", [mlp, zero_last, one_constant, zero_classifier, LowRank])
@pytest.mark.parametrize("learning_rate", [1e-2, 1e-6])
def test_what_breaks_the_symmetry_by_itself_is_quiet(make, learning_rate):
    torch.manual_seed(0)
    assert evidence(make(), learning_rate=learning_rate) == []


def test_no_verdict_before_two_updates():
    assert evidence(mlp(0.1), steps=2) == []

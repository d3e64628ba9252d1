"""Weights too small or too large for the depth: found at the first step, cured by the first remedy."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import netdoctor
from examples.lecture import ROWS, train_one_step
from netdoctor.findings import Evidence, Severity
from netdoctor.history import History
from netdoctor.rules.poor_initialization import poor_initialization
from tests.rules.training import findings_of

VERDICTS = ("exploding scale", "vanishing", "healthy", "vanishing", "healthy")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def digits() -> tuple[Tensor, Tensor]:
    images, classes = load_digits(return_X_y=True)
    images = (images - images.mean(0)) / (images.std(0) + 1e-6)
    return torch.tensor(images, dtype=torch.float32), torch.tensor(classes)


def mlp(depth: int, nonlinearity: type[nn.Module], std: float | None = None) -> nn.Sequential:
    hidden = [each for _ in range(depth) for each in (nn.Linear(64, 64), nonlinearity())]
    model = nn.Sequential(*hidden, nn.Linear(64, 10))
    if std is not None:
        for layer in model:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=std)
    return model


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> float:
    """Accuracy after training."""
    x, y = digits()
    for _ in range(steps):
        batch = torch.randint(len(x), (64,))
        F.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        return float((model.eval()(x).argmax(1) == y).float().mean())


def history_of(model: nn.Module, steps: int = 1, learning_rate: float = 1e-3) -> History:
    with netdoctor.watch(model, reporters=[], rules=[]) as monitor:
        train(model, torch.optim.Adam(model.parameters(), learning_rate), steps)
        return monitor.history


def evidence(model: nn.Module, steps: int = 1) -> list[Evidence]:
    return [each for each in poor_initialization(history_of(model, steps)) if isinstance(each, Evidence)]


@pytest.mark.parametrize(("row", "verdict"), list(zip(ROWS, VERDICTS, strict=True)), ids=[row.title for row in ROWS])
def test_judges_the_lectures_rows_rightly(row, verdict):
    outcome = train_one_step(row, width=512)
    assert outcome.verdict == verdict
    assert outcome.measured == pytest.approx(row.expected, rel=0.15)


@pytest.mark.slow
def test_reproduces_the_lectures_table_at_its_own_width():
    table = [train_one_step(row) for row in ROWS]
    assert [outcome.verdict for outcome in table] == list(VERDICTS)
    assert table[0].measured == pytest.approx([1.28, 1.63, 2.09, 2.68, 3.44, 4.42], rel=0.05)
    assert table[1].measured == pytest.approx([0.64, 0.41, 0.26, 0.17, 0.11, 0.07], rel=0.05)
    for row, outcome in zip(ROWS, table, strict=True):
        assert outcome.measured == pytest.approx(row.expected, rel=0.05)


def test_finds_and_cures_ten_sigmoid_layers():
    model = mlp(10, nn.Sigmoid, std=0.01)
    (found,) = evidence(model)
    assert found.severity == Severity.ERROR  # nothing is left of the signal
    assert found.layers == tuple(str(2 * i) for i in range(11))
    assert "0.5 keeps the variance (sigmoid, fan-in 64)" in found.message
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    assert found.remedies[0].applicable
    found.remedies[0].apply(model, optimizer)
    assert not evidence(mlp(1, nn.Sigmoid))
    assert train(model, optimizer, 600) > 0.9


def test_the_remedys_code_does_what_apply_does():
    model = mlp(10, nn.Sigmoid, std=0.01)
    (found,) = evidence(model)
    torch.manual_seed(1)
    exec(found.remedies[0].code, {"model": model, "nn": nn, "torch": torch})
    by_code = [parameter.detach().clone() for parameter in model.parameters()]
    torch.manual_seed(1)
    found.remedies[0].apply(model)
    for written, applied in zip(by_code, model.parameters(), strict=True):
        torch.testing.assert_close(written, applied.detach(), rtol=1e-3, atol=1e-3)
    assert not evidence(model)


@pytest.mark.parametrize("nonlinearity", [nn.ReLU, nn.Tanh])
def test_standard_normal_weights_are_too_large_in_a_shallow_net(nonlinearity):
    (found,) = evidence(mlp(2, nonlinearity, std=1.0))
    assert found.layers == ("0", "2", "4")
    assert found.severity == Severity.WARNING


@pytest.mark.parametrize("nonlinearity", [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_torchs_default_is_quiet_in_shallow_nets(nonlinearity, depth):
    assert all(each.severity == Severity.NOTE for each in evidence(mlp(depth, nonlinearity), steps=1))


def test_torchs_default_in_a_deep_net_is_a_note_that_ends_when_it_learns():
    model = mlp(6, nn.ReLU)
    history = history_of(model)
    assert [each.severity for each in poor_initialization(history) if isinstance(each, Evidence)] == [Severity.NOTE]
    for step, loss in enumerate([2.3 * 0.97**i for i in range(60)], 2):
        history.record(step, "loss", [loss])
    assert poor_initialization(history) == []


def test_kaiming_in_a_deep_net_is_quiet():
    model = mlp(12, nn.ReLU)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=math.sqrt(2 / 64))
    assert evidence(model) == []


def test_normalisation_ends_the_stack():
    blocks = [each for _ in range(8) for each in (nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU())]
    model = nn.Sequential(*blocks, nn.Linear(64, 10))
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
    assert evidence(model) == []


class Own(nn.Module):
    """A linear layer as tutorials write one."""

    def __init__(self, before: int, after: int, std: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(std * torch.randn(before, after))
        self.bias = nn.Parameter(torch.zeros(after))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class Shift(nn.Module):
    """Positions that are added: large numbers, and no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, 64))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight


def test_layers_of_the_authors_own_are_judged_and_cured() -> None:
    def own(std: float) -> nn.Sequential:
        return nn.Sequential(Own(64, 64, std), nn.ReLU(), Own(64, 64, std), nn.ReLU(), Own(64, 10, std))

    model = own(1.0)
    history = history_of(model)
    (found,) = [each for each in poor_initialization(history) if isinstance(each, Evidence)]
    assert set(found.layers) == {"0", "2", "4"}
    assert found.severity == Severity.WARNING
    assert found.remedies[1].apply(own(1.0))
    found.remedies[0].apply(model)
    assert model.get_parameter("2.weight").std().item() == pytest.approx(math.sqrt(2 / 64), rel=0.1)
    assert not [each for each in poor_initialization(history_of(model)) if isinstance(each, Evidence)]
    shifts = nn.Sequential(Shift(), nn.ReLU(), Shift(), nn.ReLU(), Shift(), nn.ReLU(), nn.Linear(64, 10))
    for healthy in (
        own(0.15),
        nn.Sequential(*(each for i in range(3) for each in (own(1.0)[2 * i], nn.LayerNorm(64 if i < 2 else 10)))),
        shifts,
    ):
        assert not [each for each in poor_initialization(history_of(healthy)) if isinstance(each, Evidence)]


def test_weights_of_a_thousandth_are_named_in_three_layers() -> None:
    def small(std: float) -> nn.Sequential:
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        for place in (0, 2, 4):
            nn.init.normal_(model.get_parameter(f"{place}.weight"), std=std)
        return model

    (found,) = [each for each in poor_initialization(history_of(small(0.001))) if isinstance(each, Evidence)]
    assert found.layers[:2] == ("0", "2")
    assert not [each for each in poor_initialization(history_of(small(0.02))) if isinstance(each, Evidence)]


@pytest.mark.parametrize(("std", "binary"), [(1.0, False), (0.1, False), (1.0, True), (0.1, True)])
def test_products_of_embeddings_are_held_against_the_targets(std: float, binary: bool) -> None:
    rows, columns = nn.Embedding(40, 64), nn.Embedding(30, 64)
    model = nn.ModuleList([rows, columns])
    for table in (rows, columns):
        nn.init.normal_(table.weight, std=std)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    targets = torch.randn(40, 30)

    def loss(i: int) -> Tensor:
        row, column = torch.randint(40, (64,)), torch.randint(30, (64,))
        product = (rows(row) * columns(column)).sum(1)
        if binary:
            return F.binary_cross_entropy_with_logits(product, (targets[row, column] > 0).float())
        return F.mse_loss(product, targets[row, column])

    found = findings_of(poor_initialization, model, optimizer, loss, 1)
    assert [each.layers for each in found] == [("0", "1")] * (std == 1.0)
    for each in found:
        each.remedies[0].apply(model, optimizer)
        assert loss(0).item() < (1.0 if binary else 2.0)

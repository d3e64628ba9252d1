"""The first networks people write: a table, two or three linear layers, a loop of five lines."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, RMSprop

from tests.clinic.case import Program, sick
from tests.clinic.data import batches, diabetes, digits, moons, spirals, split, table
from tests.clinic.loops import errors, mean_loss, supervised


@sick("stale-gradient", steps=200, by=40, bound=0.5)
def zero_grad_before_the_loop_only(fault: bool) -> Program:
    """Gradients are zeroed once, above the loop, together with the other preparations."""
    task = digits()
    model = nn.Sequential(nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 10))
    optimizer = SGD(model.parameters(), lr=0.1)
    loader = batches(task.x, task.y, 50)
    optimizer.zero_grad()

    def step(i: int) -> None:
        images, labels = next(loader)
        loss = F.cross_entropy(model(images), labels)
        if not fault:
            optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, task.x, task.y, F.cross_entropy))


@sick("silent-broadcast", steps=200, by=20, bound=0.65)
def huber_loss_of_a_flat_target(fault: bool) -> Program:
    """The target is a column of a table, [n]; the network answers with [n, 1]."""
    x, y, _, _ = diabetes()
    flat = y.squeeze(1)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = Adam(model.parameters(), lr=3e-3)
    criterion = nn.SmoothL1Loss()
    loader = batches(x, flat, 32)

    def step(i: int) -> None:
        features, disease = next(loader)
        answer = model(features)
        optimizer.zero_grad()
        criterion(answer if fault else answer.squeeze(1), disease).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x, y, F.mse_loss))


@sick("unnormalized-target", steps=300, by=60, bound=0.3)
def house_prices_in_dollars(fault: bool) -> Program:
    houses = torch.randn(1200, 8)
    worth = houses @ torch.randn(8) + 1.5 * (houses[:, 0] * houses[:, 1]).tanh() + 0.3 * torch.randn(1200)
    prices = (260_000 + 70_000 * worth / worth.std()).unsqueeze(1)
    scaled = (prices - prices.mean()) / prices.std()
    x, y, x_val, y_val = split(houses, prices if fault else scaled)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = Adam(model.parameters(), lr=3e-3)
    criterion = nn.MSELoss()
    loader = batches(x, y, 32)

    def step(i: int) -> None:
        features, price = next(loader)
        optimizer.zero_grad()
        criterion(model(features), price).backward()
        optimizer.step()
        if i % 30 == 0:
            with torch.no_grad():
                criterion(model(x_val), y_val)

    def loss() -> float:
        """Share of the variance that is not explained."""
        with torch.no_grad():
            return float((model(x) - y).square().mean() / y.var())

    return Program(model, optimizer, step, loss)


@sick("symmetric-initialization", steps=250, by=40, layers=("0", "2"), bound=0.08)
def a_tenth_in_every_weight_for_moons(fault: bool) -> Program:
    """An own loop over the layers gives weights a value that "is small and not zero"."""
    task = moons()
    model = nn.Sequential(nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 2))
    if fault:
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.weight.data.fill_(0.1)
                layer.bias.data.zero_()
    optimizer = RMSprop(model.parameters(), lr=3e-3)
    return supervised(model, optimizer, task, F.cross_entropy, errors(model, task.x, task.y))


@sick(
    "redundant-softmax",
    steps=150,
    by=75,
    note=True,
)
def log_softmax_before_cross_entropy(fault: bool) -> Program:
    """The logarithm of a softmax stays what it is when it is taken again: nothing is lost but time."""
    task = table("wine")
    layers: list[nn.Module] = [nn.Linear(13, 24), nn.ReLU(), nn.Linear(24, 3)]
    model = nn.Sequential(*layers, *([nn.LogSoftmax(dim=1)] if fault else []))
    optimizer = Adam(model.parameters(), lr=3e-3)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), errors(model, task.x, task.y), batch=16)


@sick("missing-nonlinearity", "underfitting", steps=350, by=150, bound=0.2)
def three_linear_layers_for_spirals(fault: bool) -> Program:
    """The activation is made in __init__ and never used in forward."""
    task = spirals()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1 = nn.Linear(2, 64)
            self.fc2 = nn.Linear(64, 64)
            self.fc3 = nn.Linear(64, 3)
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            act = nn.Identity() if fault else self.act
            out: Tensor = self.fc3(act(self.fc2(act(self.fc1(x)))))
            return out

    model = Net()
    optimizer = Adam(model.parameters(), lr=5e-3)
    return supervised(model, optimizer, task, F.cross_entropy, errors(model, task.x, task.y), validate=True)


@sick(
    "unnormalized-input",
    "learning-rate-too-small",
    steps=250,
    by=125,
    bound=0.65,
)
def diabetes_as_scikit_learn_scales_it(fault: bool) -> Program:
    """Each column of the set as it comes has a sum of squares of 1: a deviation of 0.05."""
    x, y, x_val, y_val = diabetes()
    scale = 1 / 21 if fault else 1.0
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = SGD(model.parameters(), lr=0.01)
    loader = batches(x * scale, y, 32)

    def step(i: int) -> None:
        features, disease = next(loader)
        loss = F.mse_loss(model(features), disease)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if i % 11 == 0:
            with torch.no_grad():
                F.mse_loss(model(x_val * scale), y_val)

    return Program(model, optimizer, step, mean_loss(model, x * scale, y, F.mse_loss))


@sick("loss-mismatch", "diverging-loss", steps=200, by=60, bound=0.1)
def classes_of_one_and_two_in_a_binary_loss(fault: bool) -> Program:
    """The column of the table says 1 and 2; the loss takes any number and wants 0 and 1."""
    task = table("breast_cancer")
    y = task.y.float().unsqueeze(1)
    model = nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 1))
    optimizer = Adam(model.parameters(), lr=2e-3)
    criterion = nn.BCEWithLogitsLoss()
    loader = batches(task.x, y + 1 if fault else y, 32)

    def step(i: int) -> None:
        features, diagnosis = next(loader)
        optimizer.zero_grad()
        criterion(model(features), diagnosis).backward()
        optimizer.step()

    return Program(model, optimizer, step, errors(model, task.x, task.y))

"""Linear models."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from tests.clinic import data
from tests.clinic.case import Program, healthy
from tests.clinic.loops import mean_loss
from tests.clinic.turns import Loop, turns


@healthy(steps=200, bound=0.22)
def logistic_regression_by_gradient_descent() -> Program:
    x, y, x_val, y_val = data.table("breast_cancer")
    y, y_val = y.float().unsqueeze(1), y_val.float().unsqueeze(1)
    model = nn.Linear(30, 1)
    criterion = nn.BCEWithLogitsLoss()
    optimizer = SGD(model.parameters(), lr=0.5, weight_decay=1e-2)

    def step(i: int) -> float:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, criterion))


class Softmax(nn.Module):
    """Multinomial logistic regression that returns log-probabilities."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.linear(x), dim=1)


@healthy(steps=400, bound=0.56)
def softmax_regression_on_pixels() -> Program:
    x, y, x_val, y_val = data.digits(raw=True)
    x, x_val = x / 16, x_val / 16  # pixels from 0 to 1, not standardised
    model = Softmax(64, 10)
    optimizer = SGD(model.parameters(), lr=0.5, momentum=0.9, nesterov=True, weight_decay=1e-4)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        pixels, labels = next(loader)
        loss = F.nll_loss(model(pixels), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.nll_loss))


@healthy(steps=300, bound=0.27)
def support_vector_machine() -> Program:
    x, y, x_val, y_val = data.table("breast_cancer")
    y, y_val = 2.0 * y - 1, 2.0 * y_val - 1
    model = nn.Linear(30, 1)
    optimizer = SGD(model.parameters(), lr=0.01)
    loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)

    def hinge(output: Tensor, sign: Tensor) -> Tensor:
        return torch.clamp(1 - sign * output.squeeze(1), min=0).mean()

    def train() -> Loop:
        for _ in range(100):
            for features, signs in loader:
                optimizer.zero_grad()
                loss = hinge(model(features), signs) + 0.01 * model.weight.pow(2).sum()
                loss.backward()
                optimizer.step()
                yield

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, hinge))


@healthy(steps=200, bound=0.71)
def linear_regression() -> Program:
    x, y, x_val, y_val = data.diabetes()
    model = nn.Linear(10, 1)
    optimizer = SGD(model.parameters(), lr=0.05)

    def step(i: int) -> None:
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        if i % 20 == 0:
            with torch.no_grad():
                F.mse_loss(model(x_val), y_val)

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.mse_loss))


@healthy(steps=300, bound=0.61)
def lasso() -> Program:
    x = torch.randn(600, 40)
    weight = torch.zeros(40, 1)
    weight[:5] = torch.tensor([1.0, -0.8, 0.6, -0.5, 0.4]).unsqueeze(1)
    x, y, x_val, y_val = data.split(x, x @ weight + 0.3 * torch.randn(600, 1))
    model = nn.Linear(40, 1)
    optimizer = SGD(model.parameters(), lr=0.05)

    def step(i: int) -> None:
        optimizer.zero_grad()
        fit = F.mse_loss(model(x), y)
        (fit + 0.05 * model.weight.abs().sum()).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.mse_loss))

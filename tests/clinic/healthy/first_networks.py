"""Beginners' networks that look doubtful and are sound."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW

from tests.clinic.case import Program, healthy
from tests.clinic.data import batches, digits, friedman, moons, split, table
from tests.clinic.loops import errors, mean_loss, supervised
from tests.clinic.models import mlp


@healthy(steps=400, bound=0.1)
def exclusive_or_of_four_points() -> Program:
    """Four rows, all of them in each step, and for a while one half is right."""
    x = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
    y = torch.tensor([0.0, 1.0, 1.0, 0.0]).unsqueeze(1)
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = SGD(model.parameters(), lr=0.3, momentum=0.9)
    criterion = nn.BCEWithLogitsLoss()

    def step(i: int) -> None:
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x, y, criterion))


@healthy(steps=300, bound=0.3)
def iris_in_centimetres() -> Program:
    """Lengths from 0.1 to 7.9, as they are measured: near enough to one."""
    task = table("iris", raw=True)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = Adam(model.parameters(), lr=1e-2)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), errors(model, task.x, task.y), batch=16)


@healthy(steps=250, bound=0.1)
def log_softmax_and_the_loss_for_it() -> Program:
    """NLLLoss after LogSoftmax is cross-entropy in two parts."""
    task = table("wine")
    model = nn.Sequential(nn.Linear(13, 24), nn.ReLU(), nn.Linear(24, 3), nn.LogSoftmax(dim=1))
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.5)
    return supervised(model, optimizer, task, nn.NLLLoss(), errors(model, task.x, task.y), batch=20, validate=True)


@healthy(steps=250, bound=0.02)
def share_through_a_sigmoid() -> Program:
    """A regression onto numbers from 0 to 1: the sigmoid at the end is right, and so is the squared error."""
    x = torch.randn(1000, 6)
    share = torch.sigmoid(1.2 * x[:, 0] - x[:, 1] * x[:, 2] + 0.2 * torch.randn(1000)).unsqueeze(1)
    task = split(x, share)
    model = nn.Sequential(nn.Linear(6, 48), nn.ReLU(), nn.Linear(48, 1), nn.Sigmoid())
    optimizer = Adam(model.parameters(), lr=1e-2)
    return supervised(model, optimizer, task, nn.MSELoss(), mean_loss(model, task.x, task.y, F.mse_loss), validate=True)


@healthy(steps=200, bound=0.1)
def pixels_from_zero_to_one() -> Program:
    """Divided by the largest value and no more: neither mean 0 nor variance 1, and good enough."""
    task = digits(raw=True)
    x = task.x / 16
    model = mlp(64, 64, 10)
    optimizer = AdamW(model.parameters(), lr=4e-3)
    loader = batches(x, task.y, 32)

    def step(i: int) -> None:
        images, labels = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return Program(model, optimizer, step, errors(model, x, task.y))


@healthy(steps=250, bound=0.12)
def squared_error_of_one_hot_classes() -> Program:
    """No cross-entropy, and classes come out all the same."""
    task = digits()
    model = mlp(64, 64, 10, activation=nn.Tanh)
    optimizer = Adam(model.parameters(), lr=3e-3)

    def squares(answer: Tensor, labels: Tensor) -> Tensor:
        return F.mse_loss(answer, F.one_hot(labels, 10).float())

    return supervised(model, optimizer, task, squares, errors(model, task.x, task.y), validate=True)


@healthy(steps=300, bound=0.4)
def hinge_loss_of_signs() -> Program:
    """Targets -1 and 1, a loss that is zero for most rows at the end, and SGD with a rate of a half."""
    task = moons()
    signs = 2.0 * task.y - 1
    model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = SGD(model.parameters(), lr=0.5)
    loader = batches(task.x, signs, 50)

    def step(i: int) -> None:
        points, sign = next(loader)
        loss = (1 - sign * model(points).squeeze(1)).clamp_min(0).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return float((1 - signs * model(task.x).squeeze(1)).clamp_min(0).mean())

    return Program(model, optimizer, step, loss)


@healthy(steps=300, bound=0.2)
def columns_that_say_nothing() -> Program:
    """Five of ten features have no part in the target, twenty more are noise; weights decay a little."""
    x, y, x_val, y_val = friedman(1500)
    x, x_val = (torch.cat((part, torch.randn(len(part), 20)), 1) for part in (x, x_val))
    model = mlp(30, 48, 1, dropout=0.05)
    optimizer = AdamW(model.parameters(), lr=5e-3, weight_decay=0.05)
    loader = batches(x, y, 64)

    def step(i: int) -> None:
        model.train()
        features, target = next(loader)
        optimizer.zero_grad()
        F.mse_loss(model(features), target).backward()
        optimizer.step()
        if i % 25 == 0:
            model.eval()
            with torch.no_grad():
                F.mse_loss(model(x_val), y_val)

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.mse_loss))

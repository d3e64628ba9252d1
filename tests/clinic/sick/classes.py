"""Targets, or predictions, in few of the classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam

from tests.clinic import data, models
from tests.clinic.case import Program, sick
from tests.clinic.loops import errors, supervised


def _missed(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Mean over the classes of the share of its rows that got another answer."""
    model.eval()
    with torch.no_grad():
        answer = model(x).argmax(1)
        return float(torch.stack([(answer[y == label] != label).float().mean() for label in y.unique()]).mean())


@sick("class-imbalance", "class-collapse", steps=200, by=50, bound=0.42)
def three_rare_cases_in_a_hundred(fault: bool) -> Program:
    model = models.mlp(12, 16, 2)
    task = data.imbalanced(rare=0.03)
    optimizer = SGD(model.parameters(), lr=0.05)
    weight = torch.tensor([1.0, 1.0 if fault else 30.0])
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(weight), lambda: _missed(model, task.x, task.y))


@sick("class-imbalance", "class-collapse", steps=200, by=50, bound=0.15)
def one_digit_in_most_images(fault: bool) -> Program:
    model = models.cnn((8, 8))
    task = data.digits(1, 8, 8)
    if fault:  # a detector's images: nearly all are background, here the digit 0
        kept = (task.y == 0) | (torch.rand(len(task.y)) < 0.03)
        few = task._replace(x=task.x[kept], y=task.y[kept])
    optimizer = SGD(model.parameters(), lr=0.02)
    return supervised(
        model,
        optimizer,
        few if fault else task,
        lambda p, t: F.cross_entropy(p, t),
        lambda: _missed(model, task.x, task.y),
    )


@sick("class-imbalance", "class-collapse", steps=250, by=60, bound=0.5)
def rare_disease_with_one_unit(fault: bool) -> Program:
    model = nn.Sequential(*models.mlp(12, 16, 1), nn.Flatten(0))
    task = data.imbalanced(rare=0.04)
    task = task._replace(y=task.y.float(), y_val=task.y_val.float())
    optimizer = SGD(model.parameters(), lr=0.02)
    loss_function = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(1.0 if fault else 24.0))

    def loss() -> float:
        with torch.no_grad():
            return float((model(task.x[task.y > 0]) < 0).float().mean())

    return supervised(model, optimizer, task, loss_function, loss)


@sick("class-collapse", "class-imbalance", steps=200, by=60, bound=0.3)
def class_weights_turned_around(fault: bool) -> Program:
    """Weights by frequency instead of its inverse, on balanced data with a weight in hundreds for one class."""
    model = models.mlp(64, 32, 10)
    task = data.digits()
    weight = torch.ones(10)
    if fault:
        weight[3] = 500.0
    optimizer = Adam(model.parameters(), lr=3e-3)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(weight), errors(model, task.x, task.y))


@sick("class-imbalance", "class-collapse", steps=250, by=50, bound=0.35)
def sampler_with_inverted_weights(fault: bool) -> Program:
    """Rare classes were to be drawn more often, and are drawn less often."""
    model = models.mlp(10, 32, 5)
    task = data.blobs(spread=3.0)
    task = task._replace(y=(task.y - 1).clamp(min=0))
    share = torch.bincount(task.y, minlength=4) / len(task.y)
    chances = torch.where(task.y == 0, 200.0, 1.0) if fault else 1 / share[task.y]
    optimizer = Adam(model.parameters(), lr=2e-3)
    criterion = nn.CrossEntropyLoss()

    def step(i: int) -> None:
        chosen = torch.multinomial(chances, 32, replacement=True)
        optimizer.zero_grad()
        criterion(model(task.x[chosen]), task.y[chosen]).backward()
        optimizer.step()

    return Program(model, optimizer, step, lambda: _missed(model, task.x, task.y))

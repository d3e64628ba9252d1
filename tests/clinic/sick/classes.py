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
    x = data.imbalanced(rare=0.03)
    optimizer = SGD(model.parameters(), lr=0.05)
    weight = torch.tensor([1.0, 1.0 if fault else 30.0])
    return supervised(model, optimizer, x, nn.CrossEntropyLoss(weight), lambda: _missed(model, x.x, x.y))


@sick("class-imbalance", "class-collapse", steps=200, by=50, bound=0.15)
def one_digit_in_most_images(fault: bool) -> Program:
    model = models.cnn((8, 8))
    x = data.digits(1, 8, 8)
    if fault:  # a detector's images: nearly all are background, here the digit 0
        kept = (x.y == 0) | (torch.rand(len(x.y)) < 0.03)
        few = x._replace(x=x.x[kept], y=x.y[kept])
    optimizer = SGD(model.parameters(), lr=0.02)
    return supervised(
        model, optimizer, few if fault else x, lambda p, t: F.cross_entropy(p, t), lambda: _missed(model, x.x, x.y)
    )


@sick("class-imbalance", "class-collapse", steps=250, by=60, bound=0.3)
def rare_disease_with_one_unit(fault: bool) -> Program:
    model = nn.Sequential(*models.mlp(12, 16, 1), nn.Flatten(0))
    x = data.imbalanced(rare=0.04)
    x = x._replace(y=x.y.float(), y_val=x.y_val.float())
    optimizer = SGD(model.parameters(), lr=0.1)
    loss_function = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(1.0 if fault else 24.0))

    def loss() -> float:
        with torch.no_grad():
            return float((model(x.x[x.y > 0]) < 0).float().mean())

    return supervised(model, optimizer, x, loss_function, loss)


@sick("class-collapse", "class-imbalance", steps=200, by=60, bound=0.3)
def class_weights_turned_around(fault: bool) -> Program:
    """Weights by frequency instead of its inverse, on balanced data with a weight in hundreds for one class."""
    model = models.mlp(64, 32, 10)
    x = data.digits()
    weight = torch.ones(10)
    if fault:
        weight[3] = 500.0
    optimizer = Adam(model.parameters(), lr=3e-3)
    return supervised(model, optimizer, x, nn.CrossEntropyLoss(weight), errors(model, x.x, x.y))


@sick("class-imbalance", "class-collapse", steps=250, by=50, bound=0.35)
def sampler_with_inverted_weights(fault: bool) -> Program:
    """Rare classes were to be drawn more often, and are drawn less often."""
    model = models.mlp(10, 32, 5)
    x = data.blobs(spread=3.0)
    x = x._replace(y=(x.y - 1).clamp(min=0))
    share = torch.bincount(x.y, minlength=4) / len(x.y)
    chances = torch.where(x.y == 0, 200.0, 1.0) if fault else 1 / share[x.y]
    optimizer = Adam(model.parameters(), lr=2e-3)
    criterion = nn.CrossEntropyLoss()

    def step(i: int) -> None:
        chosen = torch.multinomial(chances, 32, replacement=True)
        optimizer.zero_grad()
        criterion(model(x.x[chosen]), x.y[chosen]).backward()
        optimizer.step()

    return Program(model, optimizer, step, lambda: _missed(model, x.x, x.y))

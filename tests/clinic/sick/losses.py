"""The loss of another task, and shapes that broadcast without a word."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss
from torch.optim import SGD, Adam

from tests.clinic import data, models
from tests.clinic.case import Program, sick
from tests.clinic.data import Data
from tests.clinic.loops import errors, mean_loss, supervised


@sick("loss-mismatch", steps=250, by=20, bound=0.15)
def squares_of_class_indices(fault: bool) -> Program:
    """One output unit that is to hit the number of the class."""
    model = models.mlp(64, 64, 1 if fault else 10)
    task = data.digits()
    optimizer = Adam(model.parameters(), lr=2e-3)

    def loss_function(p: Tensor, t: Tensor) -> Tensor:
        return F.mse_loss(p.squeeze(1), t.float()) if fault else F.cross_entropy(p, t)

    def loss() -> float:
        with torch.no_grad():
            output = model(task.x)
            answer = output.squeeze(1).round() if output.shape[1] == 1 else output.argmax(1)
            return float((answer != task.y).float().mean())

    return supervised(model, optimizer, task, loss_function, loss)


def _one_hot(task: Data, classes: int) -> Data:
    y, y_val = (F.one_hot(labels, classes).float() for labels in (task.y, task.y_val))
    return Data(task.x, y, task.x_val, y_val)


@sick("loss-mismatch", steps=250, by=20, bound=0.038)
def absolute_error_of_one_hot_classes(fault: bool) -> Program:
    """The median of a class that is there in a tenth of the rows is 0: so all outputs go there."""
    model = models.mlp(64, 64, 10)
    task = data.digits()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    if fault:
        loss = errors(model, task.x, task.y)
        return supervised(model, optimizer, _one_hot(task, 10), nn.L1Loss(), loss)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), errors(model, task.x, task.y))


@sick("loss-mismatch", "vanishing-gradient", steps=250, by=20, bound=0.3)
def squares_of_probabilities(fault: bool) -> Program:
    model = models.cnn((8, 16), norm=False)
    task = data.digits(1, 8, 8)
    optimizer = SGD(model.parameters(), lr=0.05)

    def loss_function(p: Tensor, t: Tensor) -> Tensor:
        return F.mse_loss(p.softmax(1), F.one_hot(t, 10).float()) if fault else F.cross_entropy(p, t)

    return supervised(model, optimizer, task, loss_function, errors(model, task.x, task.y))


@sick("loss-mismatch", "wrong-output-activation", steps=250, by=20, bound=0.3)
def categorical_loss_of_sigmoids(fault: bool) -> Program:
    """Sigmoids do not compete: all go to 1 at no cost."""
    model = models.mlp(13, 32, 3)
    model.append(nn.Sigmoid() if fault else nn.Softmax(dim=1))
    task = data.table("wine")
    optimizer = Adam(model.parameters(), lr=1e-2)

    def loss_function(p: Tensor, t: Tensor) -> Tensor:
        return -(F.one_hot(t, 3) * (p + 1e-7).log()).sum(1).mean()

    def loss() -> float:
        with torch.no_grad():
            chances = model(task.x)
            chances = chances / chances.sum(1, keepdim=True)
            return -float(chances.gather(1, task.y.unsqueeze(1)).log().mean())

    return supervised(model, optimizer, task, loss_function, loss, batch=16)


@sick("loss-mismatch", "wrong-output-activation", steps=250, by=20, bound=0.35)
def nll_of_probabilities(fault: bool) -> Program:
    """NLLLoss wants logarithms: of probabilities its gradient fades where the answer is wrong."""
    model = models.mlp(64, 64, 64, 10)
    model.append(nn.Softmax(dim=1) if fault else nn.LogSoftmax(dim=1))
    task = data.digits()
    optimizer = SGD(model.parameters(), lr=0.05)
    return supervised(model, optimizer, task, nn.NLLLoss(), errors(model, task.x, task.y))


@sick("loss-mismatch", steps=250, by=20, bound=0.18)
def cross_entropy_for_several_labels(fault: bool) -> Program:
    """Each row has any number of labels; a softmax makes them compete."""
    model = models.mlp(20, 48, 8)
    task = data.multilabel()
    optimizer = Adam(model.parameters(), lr=5e-3)
    loss_function = nn.CrossEntropyLoss() if fault else nn.BCEWithLogitsLoss()

    def loss() -> float:
        """Share of wrong labels, with a threshold in the middle."""
        with torch.no_grad():
            return float(((model(task.x) > 0) != (task.y > 0.5)).float().mean())

    return supervised(model, optimizer, task, loss_function, loss)


@sick("loss-mismatch", steps=250, by=20, bound=0.3)
def cross_entropy_of_a_regression(fault: bool) -> Program:
    """The softmax of one unit is 1 whatever it is: cross-entropy with float targets of one column is always 0."""
    model = models.mlp(10, 32, 1)
    task = data.friedman()
    optimizer = Adam(model.parameters(), lr=5e-3)
    loss_function = nn.CrossEntropyLoss() if fault else nn.MSELoss()
    return supervised(model, optimizer, task, loss_function, mean_loss(model, task.x, task.y, F.mse_loss))


def _flat(task: Data) -> Data:
    return Data(task.x, task.y.squeeze(1), task.x_val, task.y_val.squeeze(1))


@sick("silent-broadcast", steps=300, by=5, bound=0.4)
def column_against_row(fault: bool) -> Program:
    model = models.mlp(10, 32, 1)
    task = data.friedman()
    optimizer = Adam(model.parameters(), lr=5e-3)
    used = _flat(task) if fault else task
    return supervised(model, optimizer, used, nn.MSELoss(), mean_loss(model, task.x, task.y, F.mse_loss))


@sick("silent-broadcast", steps=300, by=5, bound=0.68)
def column_against_row_by_hand(fault: bool) -> Program:
    model = models.mlp(10, 16, 1, activation=nn.Tanh)
    task = data.diabetes()
    loader = data.batches(task.x, task.y.squeeze(1), 32)
    optimizer = SGD(model.parameters(), lr=0.02)

    def step(i: int) -> None:
        inputs, targets = next(loader)
        answer = model(inputs) if fault else model(inputs).squeeze(1)
        loss = ((answer - targets) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, task.x, task.y, F.mse_loss))


@sick("silent-broadcast", steps=250, by=5, bound=0.2)
def forecast_against_row(fault: bool) -> Program:
    model = models.Recurrent(nn.GRU, 1, 32, 1)
    task = data.waves()
    optimizer = Adam(model.parameters(), lr=5e-3)
    used = _flat(task) if fault else task
    loss = mean_loss(model, task.x, task.y, F.mse_loss)
    return supervised(model, optimizer, used, smooth_l1_loss, loss, validate=True)

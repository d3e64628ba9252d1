"""Constant weights: the units of a layer stay copies of each other."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Adam

from tests.clinic import data, models
from tests.clinic.case import Program, sick
from tests.clinic.loops import cross_entropy, errors, mean_loss, supervised


@sick("symmetric-initialization", steps=250, by=5, bound=0.3, layers=("0", "2", "4"))
def constant_weights(fault: bool) -> Program:
    model = models.mlp(64, 32, 32, 10)
    if fault:
        models.initialise(model, lambda w: nn.init.constant_(w, 0.02))
    task = data.digits()
    return supervised(
        model, Adam(model.parameters(), lr=2e-3), task, nn.CrossEntropyLoss(), errors(model, task.x, task.y)
    )


@sick("symmetric-initialization", steps=200, by=5, bound=0.5, layers=("0", "3", "7"))
def zero_weights_everywhere(fault: bool) -> Program:
    model = models.cnn(norm=False)
    if fault:
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
    task = data.digits(1, 8, 8)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    return supervised(
        model, optimizer, task, lambda p, t: F.cross_entropy(p, t), mean_loss(model, task.x, task.y, cross_entropy)
    )


@sick("symmetric-initialization", steps=300, by=5, bound=0.3, layers=("recurrent",))
def constant_weights_in_lstm(fault: bool) -> Program:
    model = models.Recurrent(nn.LSTM, 8, 32, 10)
    if fault:
        for name, parameter in model.named_parameters():
            nn.init.constant_(parameter, 0.1 if "weight" in name else 0.0)
    task = data.digits(8, 8)
    return supervised(
        model, Adam(model.parameters(), lr=5e-3), task, nn.CrossEntropyLoss(), errors(model, task.x, task.y)
    )


@sick("symmetric-initialization", steps=300, by=5, bound=0.3, layers=("0", "2"))
def ones_in_regression(fault: bool) -> Program:
    model = models.mlp(10, 24, 24, 1, activation=nn.Tanh)
    if fault:
        models.initialise(model, nn.init.ones_)
    task = data.friedman()
    optimizer = Adam(model.parameters(), lr=5e-3)
    return supervised(model, optimizer, task, nn.MSELoss(), mean_loss(model, task.x, task.y, F.mse_loss))

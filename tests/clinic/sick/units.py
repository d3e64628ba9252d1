"""Units that stopped to answer: dead ReLUs, saturated sigmoids and tanhs."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import nn
from torch.nn.functional import cross_entropy as criterion
from torch.optim import SGD, Adam

from tests.clinic import data, models
from tests.clinic.case import Program, sick
from tests.clinic.loops import cross_entropy, errors, mean_loss, supervised


@sick("dead-units", "learning-rate-too-large", steps=250, by=50, bound=0.5)
def relus_killed_by_the_first_steps(fault: bool) -> Program:
    model = models.mlp(64, 64, 64, 10)
    task = data.digits()
    optimizer = SGD(model.parameters(), lr=2.5 if fault else 0.1, momentum=0.9)
    return supervised(model, optimizer, task, criterion, mean_loss(model, task.x, task.y, cross_entropy))


@sick("dead-units", "poor-initialization", steps=250, by=50, bound=0.1, layers=("0", "1", "2", "3"))
def negative_biases(fault: bool) -> Program:
    model: Any = models.mlp(64, 64, 64, 10)
    if fault:
        for place in (0, 2):
            nn.init.constant_(model[place].bias, -3.0)
    task = data.digits()
    optimizer = SGD(model.parameters(), lr=0.1)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), errors(model, task.x, task.y))


@sick("dead-units", "learning-rate-too-large", steps=300, by=50, bound=0.31)
def autoencoder_with_a_dead_middle(fault: bool) -> Program:
    model = models.mlp(64, 32, 16, 32, 64)
    x = data.digits().x
    images = data.Data(x, x, x, x)
    optimizer = Adam(model.parameters(), lr=0.3 if fault else 3e-3)
    return supervised(model, optimizer, images, nn.MSELoss(), mean_loss(model, x, x, F.mse_loss))


@sick("dead-units", "learning-rate-too-large", steps=150, by=50, bound=0.4)
def dead_convolutions(fault: bool) -> Program:
    model = models.cnn((16, 16, 16), norm=False)
    task = data.digits(1, 8, 8)
    optimizer = SGD(model.parameters(), lr=0.8 if fault else 0.05, momentum=0.9)
    return supervised(
        model, optimizer, task, lambda p, t: F.cross_entropy(p, t), mean_loss(model, task.x, task.y, cross_entropy)
    )


@sick("saturated-units", "poor-initialization", steps=200, by=50, bound=0.3, layers=("0", "1", "2", "3", "4", "5"))
def tanhs_at_their_bounds(fault: bool) -> Program:
    model: Any = models.mlp(64, 64, 64, 64, 10, activation=nn.Tanh)
    models.initialise(model, (lambda w: nn.init.normal_(w, 0, 1)) if fault else nn.init.xavier_normal_)
    if fault:
        nn.init.xavier_normal_(model[-1].weight)
    task = data.digits()
    optimizer = SGD(model.parameters(), lr=0.05)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), mean_loss(model, task.x, task.y, cross_entropy))


@sick("saturated-units", "poor-initialization", steps=300, by=50, bound=0.32, layers=("0", "1", "2", "3"))
def sigmoids_at_their_bounds(fault: bool) -> Program:
    model: Any = models.mlp(10, 20, 20, 1, activation=nn.Sigmoid)
    if fault:
        for place in (0, 2):
            nn.init.uniform_(model[place].weight, -20, 20)
    task = data.friedman()
    optimizer = Adam(model.parameters(), lr=1e-2)
    return supervised(model, optimizer, task, nn.MSELoss(), mean_loss(model, task.x, task.y, F.mse_loss))


@sick("saturated-units", "unnormalized-input", steps=250, by=50, bound=0.25, layers=("recurrent",))
def rnn_on_large_inputs(fault: bool) -> Program:
    model = models.Recurrent(nn.RNN, 8, 48, 10)
    task = data.digits(8, 8, raw=fault)
    if fault:
        task = task._replace(x=task.x * 255 / 16, x_val=task.x_val * 255 / 16)
    optimizer = Adam(model.parameters(), lr=3e-3)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), errors(model, task.x, task.y))

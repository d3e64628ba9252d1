"""Weights whose scale makes signals grow or shrink layer by layer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Adam

from tests.clinic import data, models
from tests.clinic.case import Program, sick
from tests.clinic.loops import cross_entropy, errors, mean_loss, supervised

LINEARS_8 = tuple(str(2 * place) for place in range(8))
CONVOLUTIONS = ("0", "3", "6", "8", "10")  # the last ones and the head suffer from these


@sick("poor-initialization", steps=200, by=5, bound=0.3, layers=LINEARS_8)
def tiny_normal_weights(fault: bool) -> Program:
    model = models.mlp(64, *[64] * 7, 10, activation=nn.Tanh)
    models.initialise(model, (lambda w: nn.init.normal_(w, 0, 0.01)) if fault else nn.init.xavier_normal_)
    task = data.digits()
    return supervised(
        model, SGD(model.parameters(), lr=0.05), task, nn.CrossEntropyLoss(), errors(model, task.x, task.y)
    )


@sick("poor-initialization", steps=200, by=5, bound=0.3, layers=("0", "2", "4", "6"))
def unit_normal_weights(fault: bool) -> Program:
    model = models.mlp(64, 128, 128, 128, 10)
    if fault:
        for parameter in model.parameters():
            nn.init.normal_(parameter)
    task = data.digits()
    return supervised(
        model,
        Adam(model.parameters(), lr=1e-3),
        task,
        nn.CrossEntropyLoss(),
        mean_loss(model, task.x, task.y, cross_entropy),
    )


@sick(
    "poor-initialization",
    "vanishing-gradient",
    steps=300,
    by=5,
    bound=0.5,
    layers=tuple(str(2 * place) for place in range(24)),
)
def twenty_four_layers_with_default_weights(fault: bool) -> Program:
    model = models.mlp(64, *[64] * 23, 10)  # torch's default weights: a layer and its ReLU shrink to 1/√6
    if not fault:
        models.initialise(model, lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"))
    task = data.digits()
    optimizer = Adam(model.parameters(), lr=3e-4)
    return supervised(model, optimizer, task, lambda p, t: F.cross_entropy(p, t), errors(model, task.x, task.y))


@sick("poor-initialization", "vanishing-gradient", steps=150, by=5, bound=0.4, layers=CONVOLUTIONS)
def convolutions_with_tiny_weights(fault: bool) -> Program:
    model = models.cnn((12, 16, 16, 16, 16, 16), norm=False)
    models.initialise(model, (lambda w: nn.init.normal_(w, 0, 0.02)) if fault else nn.init.kaiming_normal_)
    task = data.digits(1, 8, 8)
    optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), errors(model, task.x, task.y))


@sick("poor-initialization", steps=150, by=5, bound=0.5, layers=CONVOLUTIONS)
def growing_convolutions(fault: bool) -> Program:
    model = models.cnn((12, 16, 16, 16, 16), norm=False)
    gain = 3.0 if fault else 1.0
    models.initialise(model, lambda w: nn.init.kaiming_normal_(w).data.mul_(gain))
    task = data.digits(1, 8, 8)
    optimizer = Adam(model.parameters(), lr=1e-3)
    return supervised(
        model, optimizer, task, lambda p, t: F.cross_entropy(p, t), mean_loss(model, task.x, task.y, cross_entropy)
    )


@sick("poor-initialization", steps=300, by=5, bound=0.7, layers=LINEARS_8[:4])
def autoencoder_with_wide_uniform_weights(fault: bool) -> Program:
    model = models.mlp(64, 48, 16, 48, 64, activation=nn.GELU)
    if fault:
        models.initialise(model, lambda w: nn.init.uniform_(w, -1, 1))
    x = data.digits().x
    images = data.Data(x, x, x, x)
    return supervised(
        model, Adam(model.parameters(), lr=1e-3), images, nn.MSELoss(), mean_loss(model, x, x, F.mse_loss)
    )


@sick(
    "poor-initialization", "exploding-gradient", "saturated-units", steps=200, by=5, bound=0.25, layers=("recurrent",)
)
def recurrent_weights_too_large(fault: bool) -> Program:
    model = models.Recurrent(nn.RNN, 8, 48, 10)
    if fault:
        for weight in (model.recurrent.weight_ih_l0, model.recurrent.weight_hh_l0):
            nn.init.normal_(weight)
    else:
        nn.init.orthogonal_(model.recurrent.weight_hh_l0)
    task = data.digits(8, 8)
    return supervised(
        model, Adam(model.parameters(), lr=3e-3), task, nn.CrossEntropyLoss(), errors(model, task.x, task.y)
    )

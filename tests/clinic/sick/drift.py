"""Layers whose inputs keep moving."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD

from tests.clinic import data, models
from tests.clinic.case import Program, sick
from tests.clinic.loops import cross_entropy, errors, mean_loss, supervised


@sick("covariate-shift", "learning-rate-too-large", "saturated-units", steps=300, by=200, bound=0.1)
def deep_tanh_network_without_batchnorm(fault: bool) -> Program:
    model = models.mlp(64, *[48] * 8, 10, activation=nn.Tanh, norm=not fault)
    models.initialise(model, nn.init.xavier_normal_)
    task = data.digits()
    optimizer = SGD(model.parameters(), lr=0.2, momentum=0.9)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), errors(model, task.x, task.y))


@sick("covariate-shift", "learning-rate-too-large", "dead-units", steps=200, by=150, bound=0.95)
def deep_convolutions_without_batchnorm(fault: bool) -> Program:
    model = models.cnn((12, 12, 12, 12, 12, 12), norm=not fault)
    models.initialise(model, nn.init.kaiming_normal_)
    task = data.digits(1, 8, 8)
    optimizer = SGD(model.parameters(), lr=0.2, momentum=0.9)
    return supervised(
        model, optimizer, task, lambda p, t: F.cross_entropy(p, t), mean_loss(model, task.x, task.y, cross_entropy)
    )


@sick("class-imbalance", "class-collapse", "covariate-shift", "oscillating-loss", steps=270, by=135, bound=0.2)
def data_sorted_by_class(fault: bool) -> Program:
    """No shuffling: each batch holds one class."""
    model = models.mlp(64, 64, 10)
    task = data.digits()
    order = task.y.argsort() if fault else torch.arange(len(task.y))
    inputs, targets = task.x[order], task.y[order]
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)

    def step(i: int) -> None:
        start = 32 * (i - 1) % (len(inputs) - 31)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[start : start + 32]), targets[start : start + 32]).backward()
        optimizer.step()

    return Program(model, optimizer, step, errors(model, task.x, task.y))

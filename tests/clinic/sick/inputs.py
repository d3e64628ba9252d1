"""Inputs of another scale than the network was made for."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import cross_entropy as criterion
from torch.optim import SGD, Adam

from tests.clinic import data, models
from tests.clinic.case import Program, sick
from tests.clinic.loops import cross_entropy, errors, mean_loss, supervised


@sick("unnormalized-input", steps=200, by=5, bound=0.4, layers=("0",))
def pixels_up_to_255(fault: bool) -> Program:
    model = models.mlp(64, 64, 64, 10)
    task = data.digits(raw=fault)
    if fault:
        task = task._replace(x=task.x * 255 / 16, x_val=task.x_val * 255 / 16)
    optimizer = SGD(model.parameters(), lr=0.1)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), mean_loss(model, task.x, task.y, cross_entropy))


@sick("unnormalized-input", steps=200, by=5, bound=0.5, layers=("0",))
def pixels_divided_twice(fault: bool) -> Program:
    model = models.cnn(norm=False)
    task = data.digits(1, 8, 8, raw=True)
    scale = 16 * 255 if fault else 16  # the loader had divided already
    task = task._replace(x=task.x / scale, x_val=task.x_val / scale)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    return supervised(
        model, optimizer, task, lambda p, t: F.cross_entropy(p, t), mean_loss(model, task.x, task.y, cross_entropy)
    )


@sick("unnormalized-input", steps=150, by=5, bound=0.1, layers=("0",))
def raw_wine(fault: bool) -> Program:
    model = models.mlp(13, 32, 32, 3)
    task = data.table("wine", raw=fault)
    return supervised(
        model, Adam(model.parameters(), lr=1e-3), task, criterion, errors(model, task.x, task.y), batch=16
    )


@sick("unnormalized-input", steps=200, by=5, bound=0.25, layers=("0",))
def raw_breast_cancer(fault: bool) -> Program:
    model = nn.Sequential(nn.Linear(30, 1), nn.Flatten(0))
    task = data.table("breast_cancer", raw=fault)
    task = task._replace(y=task.y.float(), y_val=task.y_val.float())
    optimizer = SGD(model.parameters(), lr=0.05)
    loss = mean_loss(model, task.x, task.y, F.binary_cross_entropy_with_logits)
    return supervised(model, optimizer, task, nn.BCEWithLogitsLoss(), loss)


@sick("unnormalized-input", steps=300, by=5, bound=0.4, layers=("0",))
def one_column_in_other_units(fault: bool) -> Program:
    model = models.mlp(10, 32, 32, 1)
    task = data.friedman()
    if fault:  # one feature in thousandths
        units = torch.ones(10)
        units[3] = 1e4
        task = task._replace(x=task.x * units, x_val=task.x_val * units)
    optimizer = Adam(model.parameters(), lr=3e-3)
    return supervised(model, optimizer, task, nn.MSELoss(), mean_loss(model, task.x, task.y, F.mse_loss))


@sick("unnormalized-input", "saturated-units", steps=250, by=5, bound=0.3, layers=("recurrent",))
def raw_sensor_series(fault: bool) -> Program:
    model = models.Recurrent(nn.GRU, 1, 32, 1)
    task = data.waves()
    if fault:  # a pressure in Pa
        task = task._replace(x=task.x * 2e3 + 1e5, x_val=task.x_val * 2e3 + 1e5)
    optimizer = Adam(model.parameters(), lr=5e-3)
    return supervised(model, optimizer, task, nn.MSELoss(), mean_loss(model, task.x, task.y, F.mse_loss))


@sick("unnormalized-input", "saturated-units", steps=200, by=5, bound=0.07, layers=("0",))
def raw_pixels_into_sigmoids(fault: bool) -> Program:
    model = models.mlp(64, 64, 32, 10, activation=nn.Sigmoid)
    task = data.digits(raw=fault)
    if fault:
        task = task._replace(x=task.x * 255 / 16, x_val=task.x_val * 255 / 16)
    return supervised(
        model, Adam(model.parameters(), lr=5e-3), task, nn.CrossEntropyLoss(), errors(model, task.x, task.y)
    )

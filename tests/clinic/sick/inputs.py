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
    x = data.digits(raw=fault)
    if fault:
        x = x._replace(x=x.x * 255 / 16, x_val=x.x_val * 255 / 16)
    optimizer = SGD(model.parameters(), lr=0.1)
    return supervised(model, optimizer, x, nn.CrossEntropyLoss(), mean_loss(model, x.x, x.y, cross_entropy))


@sick("unnormalized-input", steps=200, by=5, bound=0.5, layers=("0",))
def pixels_divided_twice(fault: bool) -> Program:
    model = models.cnn(norm=False)
    x = data.digits(1, 8, 8, raw=True)
    scale = 16 * 255 if fault else 16  # the loader had divided already
    x = x._replace(x=x.x / scale, x_val=x.x_val / scale)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    return supervised(
        model, optimizer, x, lambda p, t: F.cross_entropy(p, t), mean_loss(model, x.x, x.y, cross_entropy)
    )


@sick("unnormalized-input", steps=150, by=5, bound=0.1, layers=("0",))
def raw_wine(fault: bool) -> Program:
    model = models.mlp(13, 32, 32, 3)
    x = data.table("wine", raw=fault)
    return supervised(model, Adam(model.parameters(), lr=1e-3), x, criterion, errors(model, x.x, x.y), batch=16)


@sick("unnormalized-input", steps=200, by=5, bound=0.25, layers=("0",))
def raw_breast_cancer(fault: bool) -> Program:
    model = nn.Sequential(nn.Linear(30, 1), nn.Flatten(0))
    x = data.table("breast_cancer", raw=fault)
    x = x._replace(y=x.y.float(), y_val=x.y_val.float())
    optimizer = SGD(model.parameters(), lr=0.05)
    loss = mean_loss(model, x.x, x.y, F.binary_cross_entropy_with_logits)
    return supervised(model, optimizer, x, nn.BCEWithLogitsLoss(), loss)


@sick("unnormalized-input", steps=300, by=5, bound=0.4, layers=("0",))
def one_column_in_other_units(fault: bool) -> Program:
    model = models.mlp(10, 32, 32, 1)
    x = data.friedman()
    if fault:  # one feature in thousandths
        units = torch.ones(10)
        units[3] = 1e4
        x = x._replace(x=x.x * units, x_val=x.x_val * units)
    optimizer = Adam(model.parameters(), lr=3e-3)
    return supervised(model, optimizer, x, nn.MSELoss(), mean_loss(model, x.x, x.y, F.mse_loss))


@sick("unnormalized-input", "saturated-units", steps=250, by=5, bound=0.3, layers=("recurrent",))
def raw_sensor_series(fault: bool) -> Program:
    model = models.Recurrent(nn.GRU, 1, 32, 1)
    x = data.waves()
    if fault:  # a pressure in Pa
        x = x._replace(x=x.x * 2e3 + 1e5, x_val=x.x_val * 2e3 + 1e5)
    optimizer = Adam(model.parameters(), lr=5e-3)
    return supervised(model, optimizer, x, nn.MSELoss(), mean_loss(model, x.x, x.y, F.mse_loss))


@sick("unnormalized-input", "saturated-units", steps=200, by=5, bound=0.07, layers=("0",))
def raw_pixels_into_sigmoids(fault: bool) -> Program:
    model = models.mlp(64, 64, 32, 10, activation=nn.Sigmoid)
    x = data.digits(raw=fault)
    if fault:
        x = x._replace(x=x.x * 255 / 16, x_val=x.x_val * 255 / 16)
    return supervised(model, Adam(model.parameters(), lr=5e-3), x, nn.CrossEntropyLoss(), errors(model, x.x, x.y))

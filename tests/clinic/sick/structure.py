"""Layers missing, or in the wrong order."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import cross_entropy as criterion
from torch.optim import SGD, Adam

from tests.clinic import data, models
from tests.clinic.case import Program, sick
from tests.clinic.loops import cross_entropy, errors, mean_loss, supervised


@sick("missing-nonlinearity", steps=300, by=5, bound=0.3, layers=("0", "1", "2", "3", "4"))
def linear_layers_in_a_row(fault: bool) -> Program:
    model = models.mlp(2, 48, 48, 3, activation=nn.Identity if fault else nn.ReLU)
    task = data.spirals()
    optimizer = Adam(model.parameters(), lr=1e-2)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), mean_loss(model, task.x, task.y, cross_entropy))


@sick("missing-nonlinearity", steps=300, by=5, bound=0.12, layers=("first", "second", "third"))
def activations_forgotten_in_forward(fault: bool) -> Program:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(10, 48)
            self.second = nn.Linear(48, 48)
            self.third = nn.Linear(48, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.second(self.first(x)) if fault else F.relu(self.second(F.relu(self.first(x))))
            out: Tensor = self.third(x)
            return out

    model = Network()
    task = data.friedman()
    optimizer = Adam(model.parameters(), lr=5e-3)
    return supervised(model, optimizer, task, nn.MSELoss(), mean_loss(model, task.x, task.y, F.mse_loss))


@sick("missing-nonlinearity", steps=200, by=5, bound=0.1, layers=("0", "1", "3"))
def convolutions_in_a_row(fault: bool) -> Program:
    def block(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, padding=1), *([] if fault else [nn.ReLU()])]

    layers = [*block(1, 8), *block(8, 8), nn.AvgPool2d(2), *block(8, 8)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    waves = [torch.cos(angle) for angle in (1.6 * rows, 1.6 * columns, 1.1 * (rows + columns), 1.1 * (rows - columns))]
    labels = torch.randint(4, (1500,))
    signs = torch.randint(2, (1500, 1, 1)) * 2 - 1
    images = (signs * torch.stack(waves)[labels] * 1.4 + 0.3 * torch.randn(1500, 8, 8)).unsqueeze(1)
    task = data.split(images, labels)
    optimizer = Adam(model.parameters(), lr=5e-3)
    return supervised(model, optimizer, task, criterion, errors(model, task.x, task.y))


@sick("excess-dropout", "underfitting", steps=300, by=5, bound=0.3)
def dropout_of_nine_tenths(fault: bool) -> Program:
    model = models.mlp(64, 48, 48, 10, dropout=0.9 if fault else 0.1)
    task = data.digits()
    optimizer = Adam(model.parameters(), lr=2e-3)
    loss = mean_loss(model, task.x, task.y, cross_entropy)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), loss, validate=True)


@sick("excess-dropout", "underfitting", steps=200, by=5, bound=0.4)
def dropout_of_channels(fault: bool) -> Program:
    layers = list(models.cnn((8, 16), norm=False))
    layers.insert(3, nn.Dropout2d(0.85 if fault else 0.05))
    model = nn.Sequential(*layers)
    task = data.digits(1, 8, 8)
    optimizer = Adam(model.parameters(), lr=3e-3)
    return supervised(
        model, optimizer, task, lambda p, t: F.cross_entropy(p, t), mean_loss(model, task.x, task.y, cross_entropy)
    )


@sick("excess-dropout", "underfitting", steps=250, by=5, bound=0.35)
def transformer_that_drops_almost_all(fault: bool) -> Program:
    model = models.Encoder(8, 10, 8, dropout=0.8 if fault else 0.1)
    task = data.digits(8, 8)
    optimizer = Adam(model.parameters(), lr=2e-3)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), mean_loss(model, task.x, task.y, cross_entropy))


@sick("excess-dropout", "underfitting", steps=300, by=5, bound=0.45)
def dropout_on_a_regression_table(fault: bool) -> Program:
    model = nn.Sequential(nn.Dropout(0.8 if fault else 0.0), *models.mlp(10, 32, 1))
    task = data.friedman()
    optimizer = Adam(model.parameters(), lr=5e-3)
    return supervised(model, optimizer, task, nn.MSELoss(), mean_loss(model, task.x, task.y, F.mse_loss))


def _dropout_and_norm(*widths: int, fault: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths[:-1]):
        norm, drop = nn.BatchNorm1d(after), nn.Dropout(0.5)
        layers.append(nn.Linear(before, after, bias=fault))
        layers += [nn.ReLU(), drop, norm] if fault else [norm, nn.ReLU(), drop]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


@sick("dropout-before-batchnorm", "train-val-mismatch", steps=300, by=5, note=True)
def dropout_before_batchnorm(fault: bool) -> Program:
    """BatchNorm learns the variance of activations with holes, and meets them without in evaluation."""
    model = _dropout_and_norm(64, 64, 64, 10, fault=fault)
    task = data.digits()
    optimizer = Adam(model.parameters(), lr=2e-3)
    loss = mean_loss(model, task.x_val, task.y_val, cross_entropy)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), loss, validate=True)


@sick("dropout-before-batchnorm", "train-val-mismatch", steps=150, by=5, note=True)
def dropout_before_batchnorm_in_convolutions(fault: bool) -> Program:
    norm, drop = nn.BatchNorm2d(16), nn.Dropout(0.5)
    order = (drop, norm, nn.ReLU()) if fault else (norm, nn.ReLU(), drop)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1, bias=False),
        *order,
        nn.Flatten(),
        nn.Linear(256, 10),
    )
    task = data.digits(1, 8, 8)
    optimizer = SGD(model.parameters(), lr=0.03, momentum=0.9)
    loss = mean_loss(model, task.x_val, task.y_val, cross_entropy)
    return supervised(model, optimizer, task, criterion, loss, validate=True)


@sick("bias-before-batchnorm", steps=100, by=5, note=True, layers=("0", "4"))
def bias_before_batchnorm(fault: bool) -> Program:
    model = models.cnn((8, 16))
    if fault:
        model[0] = nn.Conv2d(1, 8, 3, padding=1)
        model[4] = nn.Conv2d(8, 16, 3, padding=1)
    task = data.digits(1, 8, 8)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), errors(model, task.x, task.y))


@sick("bias-before-batchnorm", steps=150, by=5, note=True, layers=("0", "3"))
def bias_before_batchnorm_in_a_table(fault: bool) -> Program:
    model = models.mlp(10, 32, 32, 1, norm=True)
    if fault:
        model[0], model[3] = nn.Linear(10, 32), nn.Linear(32, 32)
    task = data.friedman()
    optimizer = Adam(model.parameters(), lr=5e-3)
    return supervised(model, optimizer, task, nn.MSELoss(), mean_loss(model, task.x, task.y, F.mse_loss))

"""Targets of another scale, or that have nothing to do with the inputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam

from tests.clinic import data, models
from tests.clinic.case import Program, sick
from tests.clinic.loops import cross_entropy, errors, mean_loss, supervised


@sick("unnormalized-target", steps=300, by=15, bound=0.7)
def raw_disease_progression(fault: bool) -> Program:
    model = models.mlp(10, 32, 1)
    raw = data.diabetes(raw=True)
    mean, std = raw.y.mean(), raw.y.std()
    scaled = raw._replace(y=(raw.y - mean) / std)

    def loss() -> float:
        with torch.no_grad():
            answer = model(raw.x)
            return float(F.mse_loss((answer - mean) / std if fault else answer, scaled.y))

    optimizer = Adam(model.parameters(), lr=3e-3)
    return supervised(model, optimizer, raw if fault else scaled, nn.MSELoss(), loss)


@sick("unnormalized-target", steps=300, by=15, bound=0.3)
def prices_in_cents(fault: bool) -> Program:
    model = models.mlp(10, 48, 48, 1, activation=nn.Tanh)
    task = data.friedman()
    unit = 1e5 if fault else 1.0

    def loss_function(p: Tensor, t: Tensor) -> Tensor:
        return ((p - t) ** 2).mean()

    def loss() -> float:
        with torch.no_grad():
            return float(F.mse_loss(model(task.x) / unit, task.y))

    scaled = task._replace(y=unit * (task.y + 2 * (unit > 1)))
    if fault:
        task = task._replace(y=task.y + 2)
    return supervised(model, SGD(model.parameters(), lr=0.05), scaled, loss_function, loss)


@sick("unnormalized-target", steps=250, by=15, bound=0.2)
def forecast_in_pascal(fault: bool) -> Program:
    model = models.Recurrent(nn.LSTM, 1, 32, 1)
    task = data.waves()
    offset, unit = (1e3, 50.0) if fault else (0.0, 1.0)

    def loss() -> float:
        with torch.no_grad():
            return float(F.mse_loss((model(task.x) - offset) / unit, task.y))

    scaled = task._replace(y=unit * task.y + offset)
    return supervised(model, Adam(model.parameters(), lr=5e-3), scaled, nn.SmoothL1Loss(), loss)


def _shuffled(y: Tensor) -> Tensor:
    return y[torch.randperm(len(y))]


@sick("not-learning", steps=300, by=150, bound=0.3)
def labels_shuffled(fault: bool) -> Program:
    model = models.mlp(64, 32, 10)
    task = data.digits()
    labels = _shuffled(task.y) if fault else task.y  # sorted apart from their images
    optimizer = SGD(model.parameters(), lr=0.1)
    return supervised(model, optimizer, task._replace(y=labels), nn.CrossEntropyLoss(), errors(model, task.x, task.y))


@sick("not-learning", steps=200, by=120, bound=0.91)
def images_shuffled_apart_from_labels(fault: bool) -> Program:
    model = models.cnn((8, 16))
    task = data.digits(1, 8, 8)
    loader = data.batches(task.x, task.y, 32)
    optimizer = Adam(model.parameters(), lr=1e-3)

    def step(i: int) -> None:
        images, labels = next(loader)
        if fault:  # an augmentation that permutes the batch forgets the labels
            images = images[torch.randperm(len(images))]
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, task.x, task.y, cross_entropy))


@sick("not-learning", steps=300, by=180, bound=0.6)
def regression_on_noise(fault: bool) -> Program:
    model = models.mlp(10, 16, 1)
    task = data.friedman()
    targets = _shuffled(task.y) if fault else task.y  # joined on the wrong key
    optimizer = SGD(model.parameters(), lr=0.02)
    return supervised(
        model,
        optimizer,
        task._replace(y=targets),
        nn.MSELoss(),
        mean_loss(model, task.x, task.y, F.mse_loss),
        validate=True,
    )


@sick("class-imbalance", "class-collapse", steps=200, by=20, bound=0.5)
def all_labels_of_one_class(fault: bool) -> Program:
    model = models.mlp(64, 32, 10)
    task = data.digits()
    labels = task.y.clamp(max=0) if fault else task.y  # a label file that did not load
    optimizer = Adam(model.parameters(), lr=2e-3)
    return supervised(model, optimizer, task._replace(y=labels), nn.CrossEntropyLoss(), errors(model, task.x, task.y))

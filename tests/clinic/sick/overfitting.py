"""Too much capacity for the data, or too little for the task."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW

from tests.clinic import data, models
from tests.clinic.case import Program, sick
from tests.clinic.data import Data
from tests.clinic.loops import cross_entropy, errors, mean_loss, supervised


def _noisy(labels: Tensor, classes: int, share: float) -> Tensor:
    return torch.where(torch.rand(len(labels)) < share, torch.randint(classes, labels.shape), labels)


@sick("overfitting", steps=500, by=375, bound=0.55)
def big_network_on_a_hundred_digits(fault: bool) -> Program:
    model = models.mlp(64, 256, 256, 10)
    task = data.digits()
    task = task._replace(y=_noisy(task.y, 10, 0.15))
    if fault:
        task = task._replace(x=task.x[:100], y=task.y[:100])
    optimizer = Adam(model.parameters(), lr=1e-3 if fault else 2e-4)
    loss = mean_loss(model, task.x_val, task.y_val, cross_entropy)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), loss, validate=True)


@sick("overfitting", steps=600, by=450, bound=0.68)
def regression_on_patients(fault: bool) -> Program:
    model = models.mlp(10, 256, 256, 1) if fault else models.mlp(10, 16, 1)
    task = data.diabetes()
    optimizer = Adam(model.parameters(), lr=3e-3 if fault else 1e-3)
    loss = mean_loss(model, task.x_val, task.y_val, F.mse_loss)
    return supervised(model, optimizer, task, nn.MSELoss(), loss, batch=32, validate=True)


@sick("overfitting", steps=250, by=200, bound=3.7)
def language_model_on_a_page(fault: bool) -> Program:
    model = models.RecurrentLanguageModel(nn.GRU, len(data.alphabet()), 96 if fault else 48)
    task = data.text(24)
    if fault:
        task = task._replace(x=task.x[:64], y=task.y[:64])
    optimizer = AdamW(model.parameters(), lr=1e-2 if fault else 4e-3)
    loss = mean_loss(model, task.x_val, task.y_val, cross_entropy)
    loader = data.batches(task.x, task.y, 16)

    def step(i: int) -> None:
        tokens, targets = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten()).backward()
        optimizer.step()
        if i % 20 == 0:
            with torch.no_grad():
                F.cross_entropy(model(task.x_val).flatten(0, 1), task.y_val.flatten())

    return Program(model, optimizer, step, loss)


@sick("overfitting", steps=300, by=250, bound=0.4)
def convolutions_that_learn_wrong_labels(fault: bool) -> Program:
    model = models.cnn((24, 48))
    task = data.digits(1, 8, 8)
    small = Data(task.x[:120], _noisy(task.y[:120], 10, 0.4), task.x_val, task.y_val)
    optimizer = Adam(model.parameters(), lr=2e-3 if fault else 1e-3)
    used = small if fault else task
    loss = mean_loss(model, task.x_val, task.y_val, cross_entropy)
    return supervised(model, optimizer, used, nn.CrossEntropyLoss(), loss, validate=True)


@sick("overfitting", steps=500, by=400, bound=0.51)
def tables_of_noise(fault: bool) -> Program:
    """Two hundred columns for a hundred and sixty rows, of which one matters."""
    columns = 200 if fault else 4
    rows = torch.randn(400, columns)
    labels = (rows[:, 0] + 0.5 * torch.randn(400) > 0).float()
    x = Data(rows[:160], labels[:160], rows[160:], labels[160:])
    model = nn.Sequential(*models.mlp(columns, 64, 1), nn.Flatten(0))
    optimizer = SGD(model.parameters(), lr=0.1 if fault else 0.03)
    loss = mean_loss(model, x.x_val, x.y_val, F.binary_cross_entropy_with_logits)
    return supervised(model, optimizer, x, nn.BCEWithLogitsLoss(), loss, batch=16, validate=True)


@sick("underfitting", steps=500, by=300, bound=0.3)
def line_through_spirals(fault: bool) -> Program:
    model = nn.Sequential(nn.Linear(2, 3)) if fault else models.mlp(2, 48, 48, 3)
    task = data.spirals()
    optimizer = Adam(model.parameters(), lr=1e-2)
    loss = mean_loss(model, task.x, task.y, cross_entropy)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), loss, validate=True)


@sick("underfitting", steps=400, by=250, bound=0.21)
def code_of_one_number(fault: bool) -> Program:
    model = models.mlp(64, 48, 1 if fault else 16, 48, 64, activation=nn.GELU)
    task = data.digits()
    images = Data(task.x, task.x, task.x_val, task.x_val)
    optimizer = Adam(model.parameters(), lr=3e-3)
    loss = mean_loss(model, task.x, task.x, F.mse_loss)
    return supervised(model, optimizer, images, nn.MSELoss(), loss, validate=True)


@sick("underfitting", steps=500, by=300, bound=0.15)
def one_hidden_unit(fault: bool) -> Program:
    model = models.mlp(10, 1, 1, activation=nn.Tanh) if fault else models.mlp(10, 32, 1, activation=nn.Tanh)
    task = data.friedman()
    optimizer = Adam(model.parameters(), lr=1e-2)
    return supervised(
        model,
        optimizer,
        task,
        lambda p, t: F.mse_loss(p, t),
        mean_loss(model, task.x, task.y, F.mse_loss),
        validate=True,
    )


@sick("underfitting", steps=400, by=250, bound=0.1)
def state_too_small_for_the_word(fault: bool) -> Program:
    model = models.Recurrent(nn.GRU, 8, 3 if fault else 48, 10)
    task = data.digits(8, 8)
    optimizer = Adam(model.parameters(), lr=1e-2 if fault else 5e-3)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), errors(model, task.x, task.y), validate=True)

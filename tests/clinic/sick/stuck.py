"""Losses that go down a little and stay there, for reasons outside the network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import ReduceLROnPlateau

from tests.clinic.case import Program, sick
from tests.clinic.data import batches, blobs, diabetes, digits, friedman, imbalanced, table
from tests.clinic.loops import errors, mean_loss, supervised
from tests.clinic.models import initialise, mlp


@sick("learning-rate-too-small", steps=250, by=150, bound=0.5)
def plateau_scheduler_told_to_maximise(fault: bool) -> Program:
    """The scheduler is given the validation loss and mode="max": the better the loss, the lower the rate."""
    task = digits()
    model = mlp(64, 64, 10)
    optimizer = SGD(model.parameters(), lr=0.05)
    scheduler = ReduceLROnPlateau(optimizer, mode="max" if fault else "min", factor=0.1, patience=1)
    criterion = nn.CrossEntropyLoss()
    loader = batches(task.x, task.y, 32)

    def step(i: int) -> None:
        model.train()
        images, labels = next(loader)
        optimizer.zero_grad()
        criterion(model(images), labels).backward()
        optimizer.step()
        if i % 10 == 0:
            model.eval()
            with torch.no_grad():
                val_loss = criterion(model(task.x_val), task.y_val)
            scheduler.step(val_loss.item())

    return Program(model, optimizer, step, mean_loss(model, task.x, task.y, F.cross_entropy))


@sick(
    "learning-rate-too-small",
    steps=250,
    by=150,
    bound=0.4,
)
def rate_of_fine_tuning_from_scratch(fault: bool) -> Program:
    """2e-5, from a script for BERT."""
    task = blobs(1200, classes=8, features=16, spread=3.0)
    model = mlp(16, 64, 64, 8, activation=nn.GELU, dropout=0.1)
    optimizer = AdamW(model.parameters(), lr=2e-5 if fault else 3e-3, weight_decay=0.01)
    return supervised(
        model, optimizer, task, F.cross_entropy, mean_loss(model, task.x, task.y, F.cross_entropy), validate=True
    )


@sick("class-imbalance", "class-collapse", steps=250, by=150, bound=0.25)
def frauds_one_in_thirty(fault: bool) -> Program:
    """Ninety-seven percent accuracy, and not one fraud found."""
    task = imbalanced(2400, 0.03)
    y = task.y.float()
    model = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Dropout(0.2), nn.Linear(24, 1))
    optimizer = SGD(model.parameters(), lr=0.03, momentum=0.9)
    weight = torch.tensor(1.0 if fault else 20.0)
    loader = batches(task.x, y, 64)

    def step(i: int) -> None:
        model.train()
        features, fraud = next(loader)
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(model(features).squeeze(1), fraud, pos_weight=weight).backward()
        optimizer.step()

    def loss() -> float:
        """Mean of the shares of frauds missed and of honest payments stopped."""
        model.eval()
        with torch.no_grad():
            found = model(task.x).squeeze(1) > 0
            return float((~found)[y == 1].float().mean() + found[y == 0].float().mean()) / 2

    return Program(model, optimizer, step, loss)


@sick("unnormalized-input", "saturated-units", steps=250, by=60, bound=0.1)
def sigmoid_units_on_measurements_of_cells(fault: bool) -> Program:
    """Areas of up to 4000 beside smoothnesses of 0.01; the classical network with one hidden layer of sigmoids."""
    task = table("breast_cancer", raw=fault)
    y = task.y.float().unsqueeze(1)
    model = nn.Sequential(nn.Linear(30, 20), nn.Sigmoid(), nn.Linear(20, 1), nn.Sigmoid())
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    criterion = nn.BCELoss()
    loader = batches(task.x, y, 32)

    def step(i: int) -> None:
        features, diagnosis = next(loader)
        loss = criterion(model(features), diagnosis)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return float(((model(task.x) > 0.5) != (y == 1)).float().mean())

    return Program(model, optimizer, step, loss)


@sick(
    "excess-dropout",
    "underfitting",
    steps=250,
    by=150,
    bound=0.2,
)
def dropout_after_every_layer_and_the_input(fault: bool) -> Program:
    """Seven tenths are dropped four times in a row, in a network of thirty units."""
    task = digits()
    p = 0.7 if fault else 0.05
    model = nn.Sequential(
        nn.Dropout(p),
        nn.Linear(64, 32),
        nn.ReLU(),
        nn.Dropout(p),
        nn.Linear(32, 32),
        nn.ReLU(),
        nn.Dropout(p),
        nn.Linear(32, 32),
        nn.ReLU(),
        nn.Dropout(p),
        nn.Linear(32, 10),
    )
    optimizer = Adam(model.parameters(), lr=3e-3)
    return supervised(model, optimizer, task, F.cross_entropy, errors(model, task.x, task.y), validate=True)


@sick("summed-loss", "learning-rate-too-large", "diverging-loss", "exploding-gradient", steps=150, by=60, bound=0.75)
def errors_summed_over_the_table(fault: bool) -> Program:
    x, y, _, _ = diabetes()
    model = nn.Sequential(nn.Linear(10, 24), nn.Tanh(), nn.Linear(24, 1))
    optimizer = SGD(model.parameters(), lr=0.05)
    criterion = nn.MSELoss(reduction="sum" if fault else "mean")
    loader = batches(x, y, 64)

    def step(i: int) -> None:
        features, disease = next(loader)
        optimizer.zero_grad()
        criterion(model(features), disease).backward()
        optimizer.step()

    def loss() -> float:
        error = mean_loss(model, x, y, F.mse_loss)()
        return error if error == error else 1e9

    return Program(model, optimizer, step, loss)


@sick("poor-initialization", "vanishing-gradient", steps=250, by=120, bound=0.4)
def hundredth_times_randn_in_seven_layers(fault: bool) -> Program:
    """W = 0.01 * randn(n_in, n_out), from the first lecture, in the network of the sixth."""
    task = digits()
    model = mlp(64, *[48] * 6, 10)
    initialise(model, lambda w: nn.init.normal_(w, std=0.01) if fault else nn.init.kaiming_normal_(w))
    optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9)
    return supervised(model, optimizer, task, F.cross_entropy, errors(model, task.x, task.y))


@sick("loss-plateau", "learning-rate-too-large", "noisy-gradient", "oscillating-loss", steps=700, by=600, bound=0.3)
def four_rows_a_step_and_a_rate_that_stays(fault: bool) -> Program:
    """Small batches at a high rate reach the floor of their own noise; the twin starts lower and lets its rate fall."""
    x, y, _, _ = friedman(1000, noise=1.5)
    model = mlp(10, 32, 1, activation=nn.Tanh)
    optimizer = SGD(model.parameters(), lr=0.2)
    loader = batches(x, y, 4)

    def step(i: int) -> None:
        if not fault:
            for group in optimizer.param_groups:
                group["lr"] = 0.05 * (1 - i / 701)
        features, target = next(loader)
        loss = F.mse_loss(model(features), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x, y, F.mse_loss))

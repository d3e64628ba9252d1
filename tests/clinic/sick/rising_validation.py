"""Validation losses that go up while those of training go down, and those that were never comparable."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, AdamW

from tests.clinic.case import Program, sick
from tests.clinic.data import batches, blobs, diabetes, digits, split
from tests.clinic.loops import errors, mean_loss, supervised
from tests.clinic.models import mlp


@sick("overfitting", steps=300, by=250, bound=0.6)
def genes_of_a_hundred_patients(fault: bool) -> Program:
    """Three hundred columns, eighty rows to train on, and a wide network; the twin has twenty times the rows."""
    rows = 100 if fault else 2000
    x = torch.randn(rows, 300)
    y = (x[:, :5].sum(1) + torch.randn(rows) > 0).long()
    task = split(x, y)
    model = mlp(300, 128, 2)
    optimizer = Adam(model.parameters(), lr=1e-3 if fault else 3e-4)
    validate = mean_loss(model, task.x_val, task.y_val, F.cross_entropy)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), validate, batch=40, validate=True)


@sick("overfitting", steps=240, by=200, bound=0.7)
def reviews_learned_by_heart(fault: bool) -> Program:
    """An LSTM over two hundred short reviews with a vocabulary of hundreds; the twin sees many more and stops early."""
    samples = 250 if fault else 4000
    words = torch.randint(300, (samples, 12))
    score = (words < 60).sum(1) - ((words >= 60) & (words < 120)).sum(1) + 0.5 * torch.randn(samples)
    task = split(words, (score > 0).long())

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(300, 32)
            self.lstm = nn.LSTM(32, 32, batch_first=True)
            self.fc = nn.Linear(32, 2)

        def forward(self, words: Tensor) -> Tensor:
            out: Tensor = self.fc(self.lstm(self.embed(words))[0].mean(1))
            return out

    model = Reader()
    optimizer = AdamW(model.parameters(), lr=5e-3)
    criterion = nn.CrossEntropyLoss()
    loader = batches(task.x, task.y, 40)
    x_val, y_val = task.x_val[:200], task.y_val[:200]

    def step(i: int) -> None:
        model.train()
        sentences, labels = next(loader)
        optimizer.zero_grad()
        criterion(model(sentences), labels).backward()
        optimizer.step()
        if i % 10 == 0:
            model.eval()
            with torch.no_grad():
                criterion(model(x_val), y_val)

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


@sick("overfitting", steps=400, by=320, bound=0.22)
def autoencoder_of_forty_images(fault: bool) -> Program:
    """A code as wide as the image, and forty images of digits to learn it from."""
    task = digits()
    x = task.x[:40] if fault else task.x
    noisy = x + 0.7 * torch.randn_like(x) if fault else x
    val = task.x_val + 0.7 * torch.randn_like(task.x_val)
    model = mlp(64, 128, 64, 128, 64)
    optimizer = Adam(model.parameters(), lr=2e-3)
    loader = batches(noisy, x, 20)
    criterion = nn.MSELoss()

    def step(i: int) -> None:
        images, clean = next(loader)
        if not fault:
            images = images + 0.7 * torch.randn_like(images)
        optimizer.zero_grad()
        criterion(model(images), clean).backward()
        optimizer.step()
        if i % 20 == 0:
            with torch.no_grad():
                criterion(model(val), task.x_val)

    return Program(model, optimizer, step, mean_loss(model, val, task.x_val, F.mse_loss))


@sick("train-val-mismatch", steps=200, by=120)
def label_encoder_fitted_anew(fault: bool) -> Program:
    """Classes are numbered in the order in which they first come, in each of the two files for itself."""
    task = blobs(1000, classes=6, features=12, spread=3.0)
    order = (torch.arange(6) + 2) % 6
    y_val = order[task.y_val] if fault else task.y_val
    model = mlp(12, 48, 6, dropout=0.1)
    optimizer = Adam(model.parameters(), lr=3e-3)
    criterion = nn.CrossEntropyLoss()
    loader = batches(task.x, task.y, 32)

    def step(i: int) -> None:
        model.train()
        features, labels = next(loader)
        loss = criterion(model(features), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if i % 25 == 0:
            model.eval()
            with torch.no_grad():
                criterion(model(task.x_val), y_val)

    return Program(model, optimizer, step, errors(model, task.x, task.y))


@sick("overfitting", steps=300, by=250, bound=0.65)
def three_wide_layers_on_the_diabetes_table(fault: bool) -> Program:
    """Half of the variance cannot be explained, and a network with 70,000 weights explains it all the same."""
    task = diabetes()
    model = mlp(10, 256, 256, 1) if fault else mlp(10, 16, 1)
    optimizer = Adam(model.parameters(), lr=3e-3)
    validate = mean_loss(model, task.x_val, task.y_val, F.mse_loss)
    return supervised(model, optimizer, task, nn.MSELoss(), validate, batch=32, validate=True)


@sick("train-val-mismatch", steps=240, by=150, bound=0.5)
def sales_that_grow_from_year_to_year(fault: bool) -> Program:
    """Levels in place of differences: the months to validate on lie above all that training has seen."""
    months = torch.arange(700.0)
    level = 0.02 * months + (2 * torch.pi * months / 12).sin() + 0.1 * torch.randn(700)
    windows = level.unfold(0, 13, 1)
    if not fault:
        windows = windows - windows[:, 11:12]
    x, y = windows[:, :12], windows[:, 12:]
    cut = 300
    mean, std = x[:cut].mean(), x[:cut].std()
    x, y = (x - mean) / std, (y - mean) / std
    model = mlp(12, 32, 32, 1, activation=nn.Tanh)
    optimizer = Adam(model.parameters(), lr=3e-3)
    loader = batches(x[:cut], y[:cut], 20)

    def step(i: int) -> None:
        past, following = next(loader)
        loss = F.mse_loss(model(past), following)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if i % 15 == 0:
            with torch.no_grad():
                F.mse_loss(model(x[cut:]), y[cut:])

    return Program(model, optimizer, step, mean_loss(model, x[cut:], y[cut:], F.mse_loss))

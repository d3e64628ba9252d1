"""Small networks on tables."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adadelta, Adam, AdamW
from torch.utils.data import DataLoader, TensorDataset

from tests.clinic import data, models
from tests.clinic.case import Program, healthy
from tests.clinic.loops import mean_loss
from tests.clinic.models import mlp
from tests.clinic.turns import Loop, turns


@healthy(steps=150, bound=0.42)
def thirty_samples_of_iris() -> Program:
    every = data.table("iris", raw=True)
    x, y, x_val, y_val = data.standardised(data.split(torch.cat(every[::2]), torch.cat(every[1::2]), train=0.2))
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = Adam(model.parameters(), lr=0.01)

    def train() -> Loop:
        while True:
            for i in torch.randperm(30).split(10):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x[i]), y[i])
                loss.backward()
                optimizer.step()
                yield

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=400, bound=0.44)
def several_labels_a_sample() -> Program:
    x, y, x_val, y_val = data.multilabel()
    model = mlp(20, 32, 8, dropout=0.1)
    criterion = nn.BCEWithLogitsLoss()
    optimizer = AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    train_loader = DataLoader(TensorDataset(x, y), batch_size=50, shuffle=True)
    val_loader = DataLoader(TensorDataset(x_val, y_val), batch_size=len(x_val))

    def train() -> Loop:
        for _ in range(20):
            model.train()
            for features, labels in train_loader:
                optimizer.zero_grad(set_to_none=True)
                loss = criterion(model(features), labels)
                loss.backward()
                optimizer.step()
                yield
            model.eval()
            with torch.no_grad():
                for features, labels in val_loader:
                    criterion(model(features), labels)

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, criterion))


@healthy(steps=200, bound=0.56)
def half_of_the_units_dropped() -> Program:
    x, y, x_val, y_val = data.digits()
    model = nn.Sequential(
        nn.Linear(64, 256),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, 10),
    )
    optimizer = Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)

    def train() -> Loop:
        for _ in range(10):
            for images, labels in loader:
                model.train()
                optimizer.zero_grad()
                loss = F.cross_entropy(model(images), labels)
                loss.backward()
                optimizer.step()
                yield
            model.eval()
            with torch.no_grad():
                F.cross_entropy(model(x_val), y_val)

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=400, bound=0.19)
def sigmoid_output_with_bce() -> Program:
    x, y, x_val, y_val = data.moons(2000)
    y, y_val = y.float(), y_val.float()
    model = nn.Sequential(
        nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1), nn.Sigmoid(), nn.Flatten(0)
    )
    criterion = nn.BCELoss()
    optimizer = Adam(model.parameters(), lr=3e-3)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        points, labels = next(loader)
        loss = criterion(model(points), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, criterion))


@healthy(steps=600, bound=0.23)
def spirals_with_gelu() -> Program:
    x, y, x_val, y_val = data.spirals()
    model = mlp(2, 64, 64, 3, activation=nn.GELU)
    optimizer = AdamW(model.parameters(), lr=5e-3)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        points, arms = next(loader)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(points), arms)
        loss.backward()
        optimizer.step()
        if i % 50 == 0:
            with torch.inference_mode():
                F.cross_entropy(model(x_val), y_val)

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


class FillsGaps(nn.Module):
    """Takes a table with NaN for what is missing."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.net = models.mlp(2 * inputs, 48, outputs)

    def forward(self, x: Tensor) -> Tensor:
        missing = x.isnan()
        out: Tensor = self.net(torch.cat((x.nan_to_num(), missing.float()), 1))
        return out


@healthy(steps=250, bound=0.34)
def missing_values_as_nan() -> Program:
    x, y, x_val, y_val = data.blobs(2000, classes=5, features=8, spread=2.0)
    x, x_val = (part.masked_fill(torch.rand_like(part) < 0.1, math.nan) for part in (x, x_val))
    model = FillsGaps(8, 5)
    optimizer = Adam(model.parameters(), lr=3e-3)
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)

    def train() -> Loop:
        for _ in range(10):
            for features, labels in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(features), labels).backward()
                optimizer.step()
                yield
            with torch.no_grad():
                F.cross_entropy(model(x_val), y_val)

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=300, bound=0.33)
def counts_of_words_mostly_zero() -> Program:
    topic = torch.randint(4, (2000,))
    chances = torch.distributions.Dirichlet(torch.full((200,), 0.1)).sample((4,)) + 0.005
    words = torch.multinomial(chances[topic], 15, replacement=True)
    counts = torch.zeros(2000, 200).scatter_add_(1, words, torch.ones(words.shape))
    x, y, x_val, y_val = data.split(counts, topic)
    model = models.mlp(200, 32, 4)
    optimizer = Adadelta(model.parameters(), lr=1.0)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        documents, topics = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(documents), topics).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))

"""Batches from one sample to all of them, and steps over several of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, AdamW
from torch.utils.data import DataLoader, TensorDataset

from tests.clinic import data, models
from tests.clinic.case import Program, healthy
from tests.clinic.loops import mean_loss
from tests.clinic.models import mlp
from tests.clinic.turns import Loop, turns


@healthy(steps=20, bound=0.17)
def second_order_steps_over_all_data() -> Program:
    x, y, x_val, y_val = data.moons(1500)
    model = mlp(2, 16, 2, activation=nn.Tanh)
    optimizer = LBFGS(model.parameters(), lr=1, max_iter=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        penalty = sum((p.pow(2).sum() for p in model.parameters()), torch.zeros(()))
        loss = F.cross_entropy(model(x), y) + 1e-3 * penalty
        loss.backward()
        return loss

    def step(i: int) -> None:
        optimizer.step(closure)

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=100, bound=0.27)
def full_batch_gradient_descent() -> Program:
    x, y, x_val, y_val = data.table("wine")
    model = mlp(13, 16, 3, activation=nn.Tanh)
    optimizer = SGD(model.parameters(), lr=0.3)

    def train() -> Loop:
        for _ in range(100):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                F.cross_entropy(model(x_val), y_val)
            yield

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=800, bound=0.33)
def one_sample_a_batch() -> Program:
    x, y, x_val, y_val = data.table("wine")
    model = mlp(13, 16, 3)
    optimizer = SGD(model.parameters(), lr=0.01)

    def train() -> Loop:
        for _ in range(10):
            for i in torch.randperm(len(x)).tolist():
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x[i]), y[i])  # a vector, no batch dimension
                loss.backward()
                optimizer.step()
                yield

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=700, bound=0.79)
def two_images_a_batch_with_groupnorm() -> Program:
    x, y, x_val, y_val = data.digits(1, 8, 8)
    layers: list[nn.Module] = []
    for before, after in ((1, 8), (8, 16)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(4, after), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 10))
    optimizer = SGD(model.parameters(), lr=0.01)
    loader = DataLoader(TensorDataset(x, y), batch_size=2, shuffle=True)

    def train() -> Loop:
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            yield

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=60, bound=0.58)
def four_thousand_samples_a_batch() -> Program:
    x, y, x_val, y_val = data.blobs(9000, classes=8, features=6, spread=3.0)
    model = mlp(6, 64, 8, norm=True)
    optimizer = SGD(model.parameters(), lr=0.2, momentum=0.9)
    loader = data.batches(x, y, 3600)

    def step(i: int) -> None:
        features, labels = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(features), labels).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=240, bound=0.63)
def four_backward_passes_a_step() -> Program:
    x, y, x_val, y_val = data.digits()
    model = models.mlp(64, 64, 64, 10)
    optimizer = AdamW(model.parameters(), lr=3e-3)
    loader = data.batches(x, y, 16)
    accumulate = 4

    def train() -> Loop:
        for batch in range(1, 100_000):
            images, labels = next(loader)
            loss = F.cross_entropy(model(images), labels) / accumulate
            loss.backward()
            if batch % accumulate == 0:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
            yield

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))

"""Runs of ten steps, runs until nothing is left to gain, runs that end by themselves."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset

from tests.clinic import data, models
from tests.clinic.case import Program, healthy
from tests.clinic.loops import errors, mean_loss
from tests.clinic.models import mlp
from tests.clinic.turns import Loop, turns


@healthy(steps=10, bound=0.28)
def ten_steps() -> Program:
    x, y, x_val, y_val = data.digits()
    model = mlp(64, 64, 10)
    optimizer = Adam(model.parameters(), lr=1e-2)
    loader = DataLoader(TensorDataset(x, y), batch_size=144, shuffle=True)

    def train() -> Loop:
        for images, labels in loader:  # one epoch
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            yield

    return Program(model, optimizer, turns(train()), errors(model, x_val, y_val))


@healthy(steps=800, bound=1.7e-05)
def exactly_solvable_and_trained_to_the_end() -> Program:
    x = torch.randn(2000, 20)
    y = x @ torch.randn(20, 3) / math.sqrt(20) + 0.5
    x, y, x_val, y_val = data.split(x, y)
    model = nn.Linear(20, 3)
    optimizer = SGD(model.parameters(), lr=0.015)
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)

    def train() -> Loop:
        while True:
            for inputs, targets in loader:
                optimizer.zero_grad()
                loss = F.mse_loss(model(inputs), targets)
                loss.backward()
                optimizer.step()
                yield
            with torch.no_grad():
                F.mse_loss(model(x_val), y_val)

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.mse_loss))


@healthy(steps=800, bound=0.00018)
def curve_fitted_to_the_end() -> Program:
    x, x_val = torch.linspace(-1.7, 1.7, 200).unsqueeze(1), torch.linspace(-1.65, 1.65, 150).unsqueeze(1)
    y, y_val = torch.sin(2.5 * x), torch.sin(2.5 * x_val)  # no noise: nothing to overfit
    model = models.mlp(1, 64, 64, 1, activation=nn.Tanh)
    optimizer = Adam(model.parameters(), lr=1e-2, betas=(0.9, 0.99))
    scheduler = CosineAnnealingLR(optimizer, T_max=800)

    def train() -> Loop:
        for _ in range(800):
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            scheduler.step()
            yield

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.mse_loss))


@healthy(steps=800, bound=0.0038)
def separable_classes_trained_to_the_end() -> Program:
    x, y, x_val, y_val = data.blobs(2000, classes=4, features=8, spread=1.0)
    model = models.mlp(8, 32, 4)
    optimizer = Adam(model.parameters(), lr=5e-3)
    loader = data.batches(x, y, 50)

    def step(i: int) -> None:
        features, labels = next(loader)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(features), labels)
        loss.backward()
        optimizer.step()
        if i % 32 == 0:
            with torch.no_grad():
                F.cross_entropy(model(x_val), y_val)

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=400, bound=0.25)
def early_stopping() -> Program:
    x, y, x_val, y_val = data.table("breast_cancer")
    model = models.mlp(30, 32, 2, dropout=0.2)
    optimizer = Adam(model.parameters(), lr=2e-3)
    loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
    best: dict[str, torch.Tensor] = {}

    def train() -> Loop:
        best_loss, patience = math.inf, 3
        for _ in range(50):
            model.train()
            for features, labels in loader:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(features), labels)
                loss.backward()
                optimizer.step()
                yield
            model.eval()
            with torch.no_grad():
                val_loss = F.cross_entropy(model(x_val), y_val).item()
            if val_loss < best_loss - 1e-3:
                best_loss, patience = val_loss, 3
                best.update({name: value.clone() for name, value in model.state_dict().items()})
            else:
                patience -= 1
            if patience == 0:
                model.load_state_dict(best)
                return

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))

"""Learning rates that change, and averages of weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
)
from torch.optim.swa_utils import SWALR, AveragedModel
from torch.utils.data import DataLoader, TensorDataset

from tests.clinic import data, models
from tests.clinic.case import Program, healthy
from tests.clinic.loops import mean_loss
from tests.clinic.turns import Loop, turns


@healthy(steps=440, bound=0.54)
def cosine_decay_to_zero() -> Program:
    x, y, x_val, y_val = data.digits()
    model = models.mlp(64, 64, 32, 10, dropout=0.1)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = CosineAnnealingLR(optimizer, T_max=20)
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True, drop_last=True)

    def train() -> Loop:
        for _ in range(20):
            model.train()
            for images, labels in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(images), labels).backward()
                optimizer.step()
                yield
            scheduler.step()  # once an epoch
            model.eval()
            with torch.no_grad():
                F.cross_entropy(model(x_val), y_val)

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=220, bound=0.52)
def one_cycle() -> Program:
    x, y, x_val, y_val = data.digits(1, 8, 8)
    model = models.resnet(blocks=1, channels=12)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    scheduler = OneCycleLR(optimizer, max_lr=0.1, total_steps=221, pct_start=0.25)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        model.train()
        images, labels = next(loader)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        scheduler.step()
        if i % 22 == 0:
            model.eval()
            with torch.no_grad():
                F.cross_entropy(model(x_val), y_val)

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=450, bound=0.22)
def warm_restarts() -> Program:
    x, y, x_val, y_val = data.moons(2000, noise=0.2)
    model = models.mlp(2, 64, 64, 2)
    optimizer = SGD(model.parameters(), lr=0.2, momentum=0.9)
    scheduler = CosineAnnealingWarmRestarts(optimizer, T_0=64, T_mult=2)
    loader = data.batches(x, y, 100)

    def step(i: int) -> None:
        points, labels = next(loader)
        loss = F.cross_entropy(model(points), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=400, bound=0.22)
def two_drops_of_the_rate() -> Program:
    x, y, x_val, y_val = data.friedman(2000)
    model = models.mlp(10, 64, 64, 1, norm=True)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    scheduler = MultiStepLR(optimizer, milestones=[200, 300], gamma=0.1)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        model.train()
        inputs, targets = next(loader)
        optimizer.zero_grad()
        F.mse_loss(model(inputs), targets).backward()
        optimizer.step()
        scheduler.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.mse_loss))


@healthy(steps=500, bound=0.64)
def rate_reduced_on_plateau() -> Program:
    x, y, x_val, y_val = data.blobs(3000, classes=6, features=4, spread=3.0)
    model = models.mlp(4, 32, 6, activation=nn.Tanh)
    criterion = nn.CrossEntropyLoss()
    optimizer = Adam(model.parameters(), lr=1e-2, weight_decay=1e-4)
    scheduler = ReduceLROnPlateau(optimizer, factor=0.3, patience=1)
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)

    def train() -> Loop:
        for _ in range(14):
            model.train()
            for features, labels in loader:
                optimizer.zero_grad()
                loss = criterion(model(features), labels)
                loss.backward()
                optimizer.step()
                yield
            model.eval()
            with torch.no_grad():
                val_loss = criterion(model(x_val), y_val)
            scheduler.step(val_loss)

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, criterion))


@healthy(steps=330, bound=0.54)
def stochastic_weight_averaging() -> Program:
    x, y, x_val, y_val = data.digits()
    model = models.mlp(64, 96, 10)
    average = AveragedModel(model)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    swa_scheduler = SWALR(optimizer, swa_lr=0.03, anneal_epochs=3)
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True, drop_last=True)

    def train() -> Loop:
        for epoch in range(15):
            for images, labels in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(images), labels).backward()
                optimizer.step()
                yield
            if epoch >= 8:
                average.update_parameters(model)
                swa_scheduler.step()

    def loss() -> float:
        with torch.no_grad():
            return F.cross_entropy((average if average.n_averaged else model)(x_val), y_val).item()

    return Program(model, optimizer, turns(train()), loss)

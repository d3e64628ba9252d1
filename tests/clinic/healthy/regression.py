"""Regression, with the losses that fit its noise."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset

from tests.clinic import data
from tests.clinic.case import Program, healthy
from tests.clinic.loops import mean_loss
from tests.clinic.models import mlp
from tests.clinic.turns import Loop, turns


@healthy(steps=400, bound=0.84)
def two_thirds_of_the_variance_is_noise() -> Program:
    x = torch.randn(4000, 8)
    signal = torch.sin(2 * x[:, :1]) + x[:, 1:2] * x[:, 2:3]
    y = signal / signal.std() * math.sqrt(0.33) + math.sqrt(0.67) * torch.randn(4000, 1)
    x, y, x_val, y_val = data.split(x, y)
    model = mlp(8, 32, 32, 1)
    optimizer = Adam(model.parameters(), lr=2e-3)
    train_loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)

    def train() -> Loop:
        for _ in range(8):
            model.train()
            for inputs, targets in train_loader:
                optimizer.zero_grad()
                loss = F.mse_loss(model(inputs), targets)
                loss.backward()
                optimizer.step()
                yield
            model.eval()
            with torch.no_grad():
                F.mse_loss(model(x_val), y_val)

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.mse_loss))


@healthy(steps=600, bound=23.0)
def targets_of_scale_ten() -> Program:
    x, y, x_val, y_val = data.friedman()
    y, y_val = 10 * y, 10 * y_val
    model = mlp(10, 64, 64, 1)
    optimizer = Adam(model.parameters(), lr=3e-3)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        inputs, targets = next(loader)
        optimizer.zero_grad()
        F.mse_loss(model(inputs), targets).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.mse_loss))


class Pinball(nn.Module):
    """The quantile loss of several quantiles at once."""

    quantiles: Tensor

    def __init__(self, *quantiles: float) -> None:
        super().__init__()
        self.register_buffer("quantiles", torch.tensor(quantiles))

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        error = target - predicted
        return torch.maximum(self.quantiles * error, (self.quantiles - 1) * error).mean()


@healthy(steps=400, bound=0.14)
def three_quantiles() -> Program:
    x = 2 * torch.rand(3000, 1) - 1
    y = torch.sin(4 * x) + (0.2 + 0.4 * x.abs()) * torch.randn_like(x)
    x, y, x_val, y_val = data.standardised(data.split(x, y))
    model = mlp(1, 64, 64, 3, activation=nn.SiLU)
    criterion = Pinball(0.1, 0.5, 0.9)
    optimizer = Adam(model.parameters(), lr=2e-3)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        inputs, targets = next(loader)
        loss = criterion(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, criterion))


@healthy(steps=400, bound=0.53)
def counts_with_poisson_loss() -> Program:
    x = torch.randn(3000, 6)
    rate = torch.exp(0.5 + 0.5 * x[:, 0] + 0.4 * torch.sin(2 * x[:, 1]))
    x, y, x_val, y_val = data.split(x, torch.poisson(rate))
    model = nn.Sequential(mlp(6, 32, 32, 1), nn.Flatten(0))
    criterion = nn.PoissonNLLLoss(log_input=True)
    optimizer = Adam(model.parameters(), lr=2e-3)
    loader = DataLoader(TensorDataset(x, y), batch_size=50, shuffle=True)

    def train() -> Loop:
        for _ in range(9):
            for inputs, counts in loader:
                optimizer.zero_grad()
                loss = criterion(model(inputs), counts)
                loss.backward()
                optimizer.step()
                yield
            with torch.no_grad():
                criterion(model(x_val), y_val)

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, criterion))


class MeanAndVariance(nn.Module):
    """A Gaussian for each input."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(1, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh())
        self.mean = nn.Linear(48, 1)
        self.spread = nn.Linear(48, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(x)
        return self.mean(hidden), F.softplus(self.spread(hidden)) + 1e-4


@healthy(steps=500, bound=-0.72)
def noise_that_depends_on_the_input() -> Program:
    x = 2 * torch.rand(3000, 1) - 1
    y = torch.sin(3 * x) + (0.1 + 0.5 * x.relu()) * torch.randn_like(x)
    x, y, x_val, y_val = data.standardised(data.split(x, y))
    model = MeanAndVariance()
    criterion = nn.GaussianNLLLoss()
    optimizer = Adam(model.parameters(), lr=3e-3)
    scheduler = CosineAnnealingLR(optimizer, T_max=500)
    loader = data.batches(x, y, 128)

    def step(i: int) -> None:
        inputs, targets = next(loader)
        mean, variance = model(inputs)
        loss = criterion(mean, targets, variance)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        scheduler.step()

    def loss(output: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        out: Tensor = criterion(output[0], target, output[1])
        return out

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, loss))  # type: ignore[arg-type]


@healthy(steps=400, bound=0.11)
def outliers_with_huber_loss() -> Program:
    x, y, x_val, y_val = data.friedman(2000)
    y = torch.where(torch.rand_like(y) < 0.05, y + 8 * torch.randn_like(y), y)  # 5 % gross errors
    model = mlp(10, 64, 1)
    optimizer = AdamW(model.parameters(), lr=5e-3, weight_decay=0.1)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        inputs, targets = next(loader)
        optimizer.zero_grad()
        F.smooth_l1_loss(model(inputs), targets).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.smooth_l1_loss))


@healthy(steps=600, bound=0.21)
def loss_summed_over_the_batch() -> Program:
    x, y, x_val, y_val = data.friedman()
    model = mlp(10, 32, 32, 1, activation=nn.ELU)
    optimizer = SGD(model.parameters(), lr=0.02 / 64, momentum=0.9)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        inputs, targets = next(loader)
        optimizer.zero_grad()
        loss = F.mse_loss(model(inputs), targets, reduction="sum")
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.mse_loss))


@healthy(steps=300, bound=0.21)
def several_outputs_of_one_table() -> Program:
    x = torch.rand(1500, 4)
    y = torch.stack((x[:, 0] * x[:, 1], (x[:, 2] - 0.5).abs(), torch.cos(6 * x[:, 3])), 1)
    y = (y - y.mean(0)) / y.std(0)
    x, y, x_val, y_val = data.standardised(data.split(x, y))
    model = mlp(4, 64, 64, 3, activation=nn.LeakyReLU)
    optimizer = Adam(model.parameters(), lr=5e-3)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.993)
    loader = data.batches(x, y, 100)

    def step(i: int) -> None:
        inputs, targets = next(loader)
        optimizer.zero_grad()
        loss = F.l1_loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        scheduler.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.l1_loss))

"""Forecasts of a series: patches, quantiles, dilated convolutions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import LambdaLR

from tests.clinic.case import Program, sick
from tests.clinic.data import Data, batches
from tests.clinic.loops import mean_loss


def _load(past: int = 48, ahead: int = 8, level: float = 0.0, scale: float = 1.0) -> Data:
    """Windows [n, past] of the load of a grid with two cycles, and what comes next [n, ahead]."""
    hours = torch.arange(1400)
    series = torch.sin(2 * math.pi * hours / 24 + 6 * torch.rand(())) + 0.5 * torch.sin(2 * math.pi * hours / 84)
    series = level + scale * (series / series.std() + 0.15 * torch.randn(1400))
    windows = series.unfold(0, past + ahead, 1)
    return Data(windows[:1000, :past], windows[:1000, past:], windows[1100:, :past], windows[1100:, past:])


class _Patches(nn.Module):
    """Cuts the past into patches, lets them attend to each other, and predicts from all of them."""

    def __init__(self, past: int = 48, ahead: int = 8, patch: int = 8, width: int = 24) -> None:
        super().__init__()
        self.patch = patch
        self.embed = nn.Linear(patch, width)
        self.place = nn.Parameter(0.02 * torch.randn(past // patch, width))
        self.block = nn.TransformerEncoderLayer(width, 4, 48, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(width * (past // patch), ahead)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.embed(x.unflatten(1, (-1, self.patch))) + self.place
        out: Tensor = self.head(self.block(patches).flatten(1))
        return out


@sick("unnormalized-input", "unnormalized-target", steps=200, by=60, bound=0.15)
def load_in_megawatts(fault: bool) -> Program:
    level, scale = (4000.0, 700.0) if fault else (0.0, 1.0)
    task = _load(level=level, scale=scale)
    model = _Patches()
    optimizer = AdamW(model.parameters(), lr=2e-3)
    loader = batches(task.x, task.y, 32)
    criterion = nn.MSELoss()

    def step(i: int) -> None:
        past, future = next(loader)
        optimizer.zero_grad()
        loss = criterion(model(past), future)
        loss.backward()
        optimizer.step()

    return Program(
        model, optimizer, step, mean_loss(model, task.x, task.y / scale, lambda p, t: F.mse_loss(p / scale, t))
    )


@sick("silent-broadcast", steps=200, by=20, bound=0.25)
def pinball_of_a_row_and_a_column(fault: bool) -> Program:
    """The forecast is squeezed and the truth is not: every forecast's quantile of every truth."""
    task = _load(ahead=1)
    model = nn.Sequential(nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = Adam(model.parameters(), lr=3e-3)
    loader = batches(task.x, task.y, 64)

    def pinball(forecast: Tensor, truth: Tensor, quantile: float = 0.7) -> Tensor:
        short = truth - forecast
        return torch.maximum(quantile * short, (quantile - 1) * short).mean()

    def step(i: int) -> None:
        past, future = next(loader)
        forecast = model(past).squeeze(1)
        loss = pinball(forecast, future if fault else future.squeeze(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, task.x, task.y, pinball))


@sick("weights-not-updated", "learning-rate-too-small", steps=240, by=120, bound=0.13)
def linear_decay_over_epochs_stepped_by_batch(fault: bool) -> Program:
    """The rate is to reach zero after eight epochs; after eight batches it has."""
    task = _load()
    model = _Patches()
    epochs, batch = 8, 32
    optimizer = AdamW(model.parameters(), lr=3e-3)
    total = epochs if fault else epochs * (len(task.x) // batch)
    scheduler = LambdaLR(optimizer, lambda done: max(0.0, 1 - done / total))
    loader = batches(task.x, task.y, batch)

    def step(i: int) -> None:
        past, future = next(loader)
        loss = F.mse_loss(model(past), future)
        loss.backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()

    return Program(model, optimizer, step, mean_loss(model, task.x, task.y, F.mse_loss))


@sick("over-regularized", steps=250, by=125, bound=0.3)
def decay_of_a_third_in_adam(fault: bool) -> Program:
    """A weight decay meant for AdamW, given to Adam, which adds it to the gradient."""
    task = _load()
    model = nn.Sequential(nn.Linear(48, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 8))
    optimizer = Adam(model.parameters(), lr=2e-3, weight_decay=0.3 if fault else 1e-5)
    criterion = nn.SmoothL1Loss()
    loader = batches(task.x, task.y, 32)

    def step(i: int) -> None:
        past, future = next(loader)
        optimizer.zero_grad()
        criterion(model(past), future).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, task.x, task.y, F.mse_loss))


class _Dilated(nn.Module):
    def __init__(self, gan: bool, channels: int = 16, depth: int = 6) -> None:
        super().__init__()
        convs = [
            nn.Conv1d(channels if i else 1, channels, 3, dilation=2 ** (i % 4), padding=2 ** (i % 4), bias=False)
            for i in range(depth)
        ]
        self.convs = nn.ModuleList(convs)
        self.head = nn.Linear(channels, 8)
        for conv in convs:
            if gan:
                nn.init.normal_(conv.weight, 0.0, 0.02)
            else:
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(1)
        for conv in self.convs:
            x = F.relu(conv(x))
        out: Tensor = self.head(x[:, :, -1])
        return out


@sick("poor-initialization", "vanishing-gradient", steps=150, by=50, bound=0.5)
def dilated_convolutions_initialised_like_a_gan(fault: bool) -> Program:
    """Weights of 0.02, as DCGAN has them, but without its batch norms."""
    task = _load()
    model = _Dilated(fault)
    optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9)
    loader = batches(task.x, task.y, 32)

    def step(i: int) -> None:
        past, future = next(loader)
        optimizer.zero_grad()
        F.mse_loss(model(past), future).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, task.x, task.y, F.mse_loss))

"""Forecasts: patches, blocks that explain what is left, counts, levels, and a series that is mostly chance."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from tests.clinic.case import Program, healthy
from tests.clinic.data import Data, batches
from tests.clinic.loops import mean_loss


def _windows(series: Tensor, past: int, ahead: int) -> Data:
    cut = len(series) * 4 // 5
    train, val = series[:cut].unfold(0, past + ahead, 1), series[cut:].unfold(0, past + ahead, 1)
    return Data(train[:, :past], train[:, past:], val[:, :past], val[:, past:])


def _seasons(length: int = 1500, noise: float = 0.3) -> Tensor:
    time = torch.arange(length)
    series = torch.sin(2 * math.pi * time / 24) + 0.7 * torch.sin(2 * math.pi * time / 12 + 1)
    series = series * (1 + 0.3 * torch.sin(2 * math.pi * time / 168)) + noise * torch.randn(length)
    return (series - series.mean()) / series.std()


@healthy(steps=180, bound=0.2)
def patches_of_the_past_with_cosine_decay() -> Program:
    x, y, x_val, y_val = _windows(_seasons(), 48, 12)

    class PatchTransformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(8, 32)
            self.place = nn.Parameter(torch.zeros(6, 32))
            layer = nn.TransformerEncoderLayer(32, 4, 64, 0.1, batch_first=True, norm_first=True, activation="gelu")
            self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
            self.head = nn.Linear(6 * 32, 12)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.encoder(self.embed(x.unflatten(1, (6, 8))) + self.place).flatten(1))
            return out

    model = PatchTransformer()
    optimizer = AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    scheduler = CosineAnnealingLR(optimizer, T_max=180)
    loader = batches(x, y, 32)

    def step(i: int) -> None:
        model.train()
        past, future = next(loader)
        optimizer.zero_grad()
        F.mse_loss(model(past), future).backward()
        optimizer.step()
        scheduler.step()
        if i % 36 == 0:
            model.eval()
            with torch.no_grad():
                F.mse_loss(model(x_val), y_val)

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.mse_loss))


@healthy(steps=300, bound=0.9)
def returns_that_are_mostly_chance() -> Program:
    """A third of the variance can be told and no more: the loss falls early and stays."""
    series = torch.zeros(4000)
    for i in range(2, 4000):
        series[i] = 0.5 * series[i - 1] - 0.3 * series[i - 2] + torch.randn(())
    x, y, x_val, y_val = _windows(series / series.std(), 8, 1)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-3)
    criterion = nn.MSELoss()
    loader = batches(x, y, 128)

    def step(i: int) -> None:
        past, future = next(loader)
        optimizer.zero_grad()
        loss = criterion(model(past), future)
        loss.backward()
        optimizer.step()
        if i % 25 == 0:
            with torch.no_grad():
                criterion(model(x_val), y_val)

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, criterion))


@healthy(steps=250, bound=0.25)
def blocks_that_explain_what_is_left() -> Program:
    """Each block takes its part off the past and adds one to the forecast; at first it takes and adds nothing."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = nn.Sequential(nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU())
            self.both = nn.Linear(48, 48 + 8)
            nn.init.zeros_(self.both.weight)
            nn.init.zeros_(self.both.bias)

        def forward(self, past: Tensor) -> tuple[Tensor, Tensor]:
            backcast, forecast = self.both(self.hidden(past)).split((48, 8), dim=1)
            return past - backcast, forecast

    class Blocks(nn.Module):
        """What the last block leaves of the past is looked at too."""

        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Block() for _ in range(3))
            self.left = torch.zeros(())

        def forward(self, past: Tensor) -> Tensor:
            total = torch.zeros(())
            for block in self.blocks:
                past, forecast = block(past)
                total = total + forecast
            self.left = past.square().mean()
            return total

    task = _windows(_seasons(), 48, 8)
    model = Blocks()
    optimizer = Adam(model.parameters(), lr=1e-3)
    loader = batches(task.x, task.y, 32)

    def step(i: int) -> None:
        past, future = next(loader)
        loss = F.mse_loss(model(past), future) + 0.1 * model.left
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, task.x, task.y, F.mse_loss))


@healthy(steps=160, bound=2.5)
def sales_by_a_negative_binomial() -> Program:
    """Counts with a long tail, mean and dispersion from a GRU: the likelihood has a floor far above zero."""
    time = torch.arange(2000)
    mean = torch.exp(1.2 + 0.9 * torch.sin(2 * math.pi * time / 7))
    counts = torch.poisson(mean * torch.distributions.Gamma(4.0, 4.0).sample((2000,)))
    task = _windows(counts, 21, 1)

    class Sales(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(1, 24, batch_first=True)
            self.head = nn.Linear(24, 2)

        def forward(self, past: Tensor) -> torch.distributions.NegativeBinomial:
            log_mean, log_shape = self.head(self.gru(past.log1p().unsqueeze(2) - 1.2)[0][:, -1]).unbind(1)
            shape = log_shape.exp() + 0.1
            return torch.distributions.NegativeBinomial(shape, logits=log_mean + 1 - shape.log())

    model = Sales()
    optimizer = Adam(model.parameters(), lr=5e-3)
    loader = batches(task.x, task.y, 64)

    def step(i: int) -> None:
        past, sold = next(loader)
        loss = -model(past).log_prob(sold.squeeze(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return float(-model(task.x_val).log_prob(task.y_val.squeeze(1)).mean())

    return Program(model, optimizer, step, loss)


@healthy(steps=250, bound=0.3)
def level_taken_off_each_window() -> Program:
    """The model gets thousands of megawatts and standardises each window by itself, and its target with it."""
    series = 4000 + 700 * _seasons() + 0.3 * torch.arange(1500)
    task = _windows(series, 48, 8)

    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 8))

        def forward(self, past: Tensor, future: Tensor) -> Tensor:
            mean, std = past.mean(1, keepdim=True), past.std(1, keepdim=True)
            return F.smooth_l1_loss(self.net((past - mean) / std), (future - mean) / std, beta=0.5)

    model = Normalised()
    optimizer = AdamW(model.parameters(), lr=2e-3)
    loader = batches(task.x, task.y, 32)

    def step(i: int) -> None:
        model.train()
        optimizer.zero_grad()
        model(*next(loader)).backward()
        optimizer.step()

    def loss() -> float:
        model.eval()
        with torch.no_grad():
            return float(model(task.x_val, task.y_val))

    return Program(model, optimizer, step, loss)


@healthy(steps=180, bound=0.1)
def smoothing_by_a_dozen_numbers() -> Program:
    """Level, seasons and two rates of smoothing, trained through the whole series at a rate of 0.05."""
    level = 0.02 * torch.randn(30, 48).cumsum(1)
    series = level + torch.randn(8).repeat(6) + 0.2 * torch.randn(30, 48)

    class Smoothing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rate = nn.Parameter(torch.tensor(0.0))
            self.level = nn.Parameter(torch.tensor(0.0))
            self.season = nn.Parameter(torch.zeros(8))

        def forward(self, series: Tensor) -> Tensor:
            level, told = self.level.expand(len(series)), []
            for i in range(series.shape[1]):
                season = self.season[i % 8]
                told.append(level + season)
                level = level + self.rate.sigmoid() * (series[:, i] - season - level)
            return torch.stack(told, 1)

    model = Smoothing()
    optimizer = Adam(model.parameters(), lr=0.05)

    def step(i: int) -> None:
        chosen = series[torch.randint(30, (10,))]
        optimizer.zero_grad()
        F.mse_loss(model(chosen), chosen).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, series, series, F.mse_loss))

"""Tables, images and series, trained as for a competition."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from tests.clinic.case import Program, sick
from tests.clinic.data import Data, batches, diabetes, digits, friedman, waves
from tests.clinic.loops import mean_loss


@sick("overfitting", steps=240, by=160, bound=0.6)
def wide_network_on_eighty_patients(fault: bool) -> Program:
    x, y, x_val, y_val = diabetes()
    if fault:
        x, y = x[:80], y[:80]
        model = nn.Sequential(nn.Linear(10, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 1))
    else:
        model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1))
    optimizer = Adam(model.parameters(), lr=2e-3, weight_decay=0.0 if fault else 1e-2)
    criterion = nn.MSELoss()
    loader = batches(x, y, 40)

    def step(i: int) -> None:
        model.train()
        rows, targets = next(loader)
        optimizer.zero_grad()
        loss = criterion(model(rows), targets)
        loss.backward()
        optimizer.step()
        if i % 10 == 0:
            model.eval()
            with torch.no_grad():
                criterion(model(x_val), y_val)

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, criterion))


@sick("learning-rate-too-large", "dead-units", steps=200, by=40, bound=0.6)
def relus_of_a_regression_at_a_half(fault: bool) -> Program:
    """The first steps throw the biases so far that nothing comes through, and the mean is what is left to say."""
    task = friedman()
    model = nn.Sequential(
        nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)
    )
    optimizer = SGD(model.parameters(), lr=0.5 if fault else 0.02, momentum=0.9)
    loader = batches(task.x, task.y, 32)

    def step(i: int) -> None:
        rows, targets = next(loader)
        loss = F.huber_loss(model(rows), targets, delta=2.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, task.x, task.y, F.mse_loss))


@sick(
    "loss-plateau",
    "oscillating-loss",
    "noisy-gradient",
    "learning-rate-too-large",
    steps=600,
    by=450,
    bound=0.02,
)
def rate_kept_to_the_end(fault: bool) -> Program:
    """Small batches at a constant rate: the loss hangs where noise and step length hold it."""
    x = torch.randn(3000, 6)
    y = torch.tanh(x @ torch.randn(6, 4) / 6**0.5) @ torch.randn(4, 1)
    y = (y - y.mean()) / y.std()
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = SGD(model.parameters(), lr=0.08, momentum=0.8)
    scheduler = CosineAnnealingLR(optimizer, T_max=600)
    loader = batches(x, y + 0.4 * torch.randn(3000, 1), 8)

    def step(i: int) -> None:
        rows, targets = next(loader)
        optimizer.zero_grad()
        F.mse_loss(model(rows), targets).backward()
        optimizer.step()
        if not fault:
            scheduler.step()

    return Program(model, optimizer, step, mean_loss(model, x, y, F.mse_loss))


@sick("excess-dropout", steps=200, by=80, bound=0.08)
def share_to_keep_taken_for_share_to_drop(fault: bool) -> Program:
    """``dropout=0.9`` was meant to keep nine units of ten."""

    class Forecaster(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(1, 24, num_layers=2, batch_first=True, dropout=0.9 if fault else 0.1)
            self.dropout = nn.Dropout(0.9 if fault else 0.1)
            self.fc = nn.Linear(24, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc(self.dropout(self.gru(x)[0][:, -1]))
            return out

    task = waves(1000, length=16)
    model = Forecaster()
    optimizer = Adam(model.parameters(), lr=1e-2)
    loader = batches(task.x, task.y, 32)

    def step(i: int) -> None:
        model.train()
        past, following = next(loader)
        optimizer.zero_grad()
        F.mse_loss(model(past), following).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, task.x, task.y, F.mse_loss))


@sick("train-val-mismatch", steps=240, by=120, bound=0.3)
def scaler_fitted_anew_on_validation(fault: bool) -> Program:
    """Validation is the cold season: standardised by itself, its temperatures are like those of the whole year."""
    day = torch.arange(1000)
    temperature = 12 - 10 * torch.cos(2 * torch.pi * day / 365) + 3 * torch.randn(1000)
    wind, sun = torch.randn(1000).abs() * 4, torch.rand(1000) * 8
    x = torch.stack((temperature, wind, sun), 1)
    heating = F.softplus((18 - temperature) / 3) + 0.15 * wind - 0.05 * sun + 0.2 * torch.randn(1000)
    y = ((heating - heating.mean()) / heating.std()).unsqueeze(1)
    cold = (day % 365 < 60) & (day > 700)

    def scaled(x: Tensor, by: Tensor) -> Tensor:
        return (x - by.mean(0)) / by.std(0)

    own = scaled(x[cold], x[cold] if fault else x[~cold])
    task = Data(scaled(x[~cold], x[~cold]), y[~cold], own, y[cold])
    model = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = Adam(model.parameters(), lr=3e-3)
    criterion = nn.MSELoss()
    loader = batches(task.x, task.y, 32)

    def step(i: int) -> None:
        rows, targets = next(loader)
        loss = criterion(model(rows), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if i % 20 == 0:
            with torch.no_grad():
                criterion(model(task.x_val), task.y_val)

    return Program(model, optimizer, step, mean_loss(model, task.x_val, task.y_val, criterion))


@sick("loss-mismatch", steps=200, by=60, bound=0.7)
def nll_of_logits(fault: bool) -> Program:
    """NLLLoss takes the logarithms of probabilities; what comes out of a linear layer has no upper end."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, 10, 3), nn.Conv2d(10, 20, 3)
            self.fc1, self.fc2 = nn.Linear(80, 50), nn.Linear(50, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.conv1(x))
            x = F.relu(F.max_pool2d(self.conv2(x), 2))
            x = self.fc2(F.relu(self.fc1(x.flatten(1))))
            return x if fault else F.log_softmax(x, dim=1)

    task = digits(1, 8, 8)
    model = Net()
    optimizer = SGD(model.parameters(), lr=0.03, momentum=0.5)
    loader = batches(task.x, task.y, 32)

    def step(i: int) -> None:
        images, labels = next(loader)
        optimizer.zero_grad()
        loss = F.nll_loss(model(images), labels)
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, task.x, task.y, F.cross_entropy))

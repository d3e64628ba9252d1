"""Optimizers, schedules and normalisation in combinations that do not work."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Adam, NAdam, Optimizer, RMSprop
from torch.optim.lr_scheduler import LinearLR, StepLR

from tests.clinic import data, models
from tests.clinic.case import Program, sick
from tests.clinic.data import Data
from tests.clinic.loops import cross_entropy, errors, mean_loss, supervised


class _Descent(Optimizer):
    """Gradient descent by hand."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, rebind: bool) -> None:
        super().__init__(params, {"lr": lr})
        self.rebind = rebind

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if self.rebind:
                    p = p - group["lr"] * p.grad  # another tensor of the same name
                else:
                    p -= group["lr"] * p.grad


@sick("weights-not-updated", steps=150, by=50, bound=0.3)
def weights_bound_to_another_name(fault: bool) -> Program:
    model = models.cnn((8, 16), norm=False)
    task = data.digits(1, 8, 8)
    optimizer = _Descent(model.parameters(), lr=0.2, rebind=fault)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), errors(model, task.x, task.y), batch=64)


@sick(
    "oscillating-loss",
    "learning-rate-too-large",
    steps=200,
    by=100,
    bound=0.5,
)
def momentum_of_0995(fault: bool) -> Program:
    """A memory of two hundred steps: the weights swing around where they should stay."""
    model = nn.Linear(10, 1)
    truth = torch.randn(10, 1)
    x = torch.randn(1000, 10)
    table = Data(x, x @ truth + 0.3 * torch.randn(1000, 1), x, x @ truth)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.995 if fault else 0.8)
    return supervised(model, optimizer, table, nn.MSELoss(), mean_loss(model, x, table.y_val, F.mse_loss), batch=128)


@sick("learning-rate-too-large", "exploding-gradient", "logit-growth", "oscillating-loss", steps=150, by=75, bound=0.1)
def rmsprop_at_a_rate_for_sgd(fault: bool) -> Program:
    model = models.resnet(1, 12)
    task = data.digits(1, 8, 8)
    optimizer = RMSprop(model.parameters(), lr=0.3 if fault else 2e-3)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), errors(model, task.x, task.y), batch=64)


@sick(
    "loss-plateau",
    "noisy-gradient",
    "oscillating-loss",
    "learning-rate-too-large",
    steps=400,
    by=300,
    bound=0.1,
    note=True,
    miss="the noise of the targets is twenty times what the steps keep up",
)
def rmsprop_that_never_slows_down(fault: bool) -> Program:
    model = nn.Linear(12, 3)
    x, plan = torch.randn(8000, 12), torch.randn(12, 3)
    truth = x @ plan
    table = Data(x, truth + 2 * torch.randn(8000, 3), x, truth)
    optimizer = RMSprop(model.parameters(), lr=5e-2)
    scheduler = None if fault else StepLR(optimizer, 150, 0.1)
    loss = mean_loss(model, x, truth, F.mse_loss)
    return supervised(model, optimizer, table, nn.L1Loss(), loss, batch=16, scheduler=scheduler)


@sick(
    "learning-rate-too-small",
    "underfitting",
    steps=200,
    by=100,
    bound=0.5,
    miss="said too late where few steps are sampled",
)
def schedule_that_starts_at_its_end(fault: bool) -> Program:
    """LinearLR with start and end factor exchanged, in the belief that it is the rate it is given that grows."""
    model = models.Recurrent(nn.GRU, 8, 32, 10)
    task = data.digits(8, 8)
    optimizer = NAdam(model.parameters(), lr=5e-3)
    factors = (1e-4, 1e-3) if fault else (0.1, 1.0)
    scheduler = LinearLR(optimizer, *factors, total_iters=50)
    loss = mean_loss(model, task.x, task.y, cross_entropy)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), loss, batch=32, scheduler=scheduler)


def _series_network(fault: bool, kind: str) -> nn.Sequential:
    """Convolutions over time [n, 1, 24] with BatchNorm, and the fault of that kind in each block."""
    layers: list[nn.Module] = []
    for before, after in ((1, 16), (16, 16), (16, 16)):
        layers.append(nn.Conv1d(before, after, 3, padding=1, bias=fault and kind == "bias"))
        layers += [nn.Dropout(0.5)] if fault and kind == "dropout" else []
        layers += [nn.BatchNorm1d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(64, 1))


def _series() -> Data:
    task = data.waves()
    return Data(task.x.transpose(1, 2), task.y, task.x_val.transpose(1, 2), task.y_val)


@sick(
    "dropout-before-batchnorm",
    "train-val-mismatch",
    "excess-dropout",
    steps=250,
    by=5,
    bound=0.06,
)
def dropout_before_the_norms_of_a_series(fault: bool) -> Program:
    model = _series_network(fault, "dropout")
    task = _series()
    optimizer = Adam(model.parameters(), lr=5e-3)
    loss = mean_loss(model, task.x_val, task.y_val, F.mse_loss)
    return supervised(model, optimizer, task, nn.MSELoss(), loss, batch=32, validate=True)


@sick("bias-before-batchnorm", steps=100, by=20, note=True)
def biases_before_the_norms_of_a_series(fault: bool) -> Program:
    model = _series_network(fault, "bias")
    task = _series()
    optimizer = Adam(model.parameters(), lr=5e-3)
    return supervised(model, optimizer, task, nn.SmoothL1Loss(), mean_loss(model, task.x, task.y, F.mse_loss), batch=32)


@sick("expert-imbalance", steps=300, by=100, bound=0.3)
def gate_with_a_favourite(fault: bool) -> Program:
    """The gate's bias was loaded from a model with one expert: all rows go there, and no loss balances them."""
    model = models.MixtureOfExperts(6, 4, 1, experts=6)
    if fault:
        with torch.no_grad():
            model.gate.bias[0] = 20.0
    x = torch.randn(3000, 6)
    y = torch.where(x[:, 0] > 0, x[:, 1] + x[:, 2], torch.where(x[:, 3] > 0, x[:, 4] - x[:, 1], x[:, 5] - x[:, 2]))[
        :, None
    ]
    task = data.split(x, y / y.std())
    loader = data.batches(task.x, task.y, 64)
    optimizer = Adam(model.parameters(), lr=1e-2)

    def step(i: int) -> None:
        inputs, targets = next(loader)
        loss = F.mse_loss(model(inputs), targets) + (0.0 if fault else 0.02) * model.balance
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, task.x, task.y, F.mse_loss))


@sick(
    "noisy-gradient",
    "learning-rate-too-large",
    "oscillating-loss",
    "loss-plateau",
    steps=400,
    by=250,
    bound=0.4,
    miss="said in some runs only: the noise is close to that of the data",
)
def four_windows_of_a_noisy_series(fault: bool) -> Program:
    model = models.Recurrent(nn.GRU, 1, 16, 1)
    task = data.waves(2000)
    noisy = task._replace(y=task.y + 2.5 * torch.randn_like(task.y))
    optimizer = SGD(model.parameters(), lr=0.15)
    loss = mean_loss(model, task.x, task.y, F.mse_loss)
    return supervised(model, optimizer, noisy, nn.MSELoss(), loss, batch=4 if fault else 64)


@sick(
    "loss-spike",
    "exploding-gradient",
    "unnormalized-input",
    steps=240,
    by=120,
    bound=2.0,
)
def glitch_of_a_sensor(fault: bool) -> Program:
    """Every forty steps a window holds a voltage of the power supply, sixty times the signal."""
    model = nn.Sequential(nn.Conv1d(1, 16, 5, padding=2), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 24, 1))
    task = _series()
    loader = data.batches(task.x, task.y, 16)
    optimizer = Adam(model.parameters(), lr=0.003)
    losses = []

    def step(i: int) -> None:
        windows, following = next(loader)
        if fault and i % 40 == 35:
            windows = windows.clone()
            windows[0, 0, -12:] += 60.0
        loss = F.mse_loss(model(windows), following)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    return Program(model, optimizer, step, lambda: max(losses[40:]))


@sick("symmetric-initialization", steps=150, by=5, bound=0.3)
def kernels_filled_with_a_constant(fault: bool) -> Program:
    model = models.cnn((8, 16), norm=False)
    if fault:
        models.initialise(model, lambda weight: nn.init.constant_(weight, 1 / math.sqrt(weight[0].numel())))
    task = data.digits(1, 8, 8)
    optimizer = Adam(model.parameters(), lr=5e-3)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), errors(model, task.x, task.y), batch=32)

"""Depth that works by its initialisation."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader, TensorDataset

from tests.clinic import data, models
from tests.clinic.case import Program, healthy
from tests.clinic.loops import mean_loss
from tests.clinic.turns import Loop, turns


class ReZero(nn.Module):
    """A residual branch whose gain starts at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = models.mlp(width, width, width)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.gain * self.branch(x)
        return out


@healthy(steps=220, bound=0.59)
def residual_branches_that_start_at_zero() -> Program:
    x, y, x_val, y_val = data.digits()
    model = nn.Sequential(nn.Linear(64, 64), *(ReZero(64) for _ in range(8)), nn.Linear(64, 10))
    optimizer = Adam(model.parameters(), lr=1e-3)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        images, labels = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


class Fixup(nn.Module):
    """Residual convolutions without norm: scalars for biases, the branch's last layer at zero (Zhang et al. 2019)."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.biases = nn.ParameterList(torch.zeros(()) for _ in range(4))
        self.scale = nn.Parameter(torch.ones(()))
        nn.init.kaiming_normal_(self.conv1.weight).data.mul_(blocks**-0.5)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv1(x + self.biases[0]) + self.biases[1])
        y = self.scale * self.conv2(y + self.biases[2]) + self.biases[3]
        return F.relu(x + y)


@healthy(steps=200, bound=0.52)
def fixup_without_norm() -> Program:
    x, y, x_val, y_val = data.digits(1, 8, 8)
    stem, head = nn.Conv2d(1, 16, 3, padding=1), nn.Linear(256, 10)
    nn.init.kaiming_normal_(stem.weight)
    nn.init.zeros_(head.weight)
    blocks = (Fixup(16, 3) for _ in range(3))
    model = nn.Sequential(stem, nn.ReLU(), nn.MaxPool2d(2), *blocks, nn.Flatten(), head)
    optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9)
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)

    def train() -> Loop:
        for _ in range(10):
            for images, labels in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(images), labels).backward()
                optimizer.step()
                yield

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=250, bound=0.69)
def self_normalising_network() -> Program:
    x, y, x_val, y_val = data.digits()
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise((64, *[64] * 8)):
        layers += [nn.Linear(before, after), nn.SELU(), nn.AlphaDropout(0.05)]
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    models.initialise(model, lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="linear"))
    optimizer = SGD(model.parameters(), lr=0.02)
    loader = data.batches(x, y, 32)

    def step(i: int) -> None:
        model.train()
        images, labels = next(loader)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        if i % 44 == 0:
            model.eval()
            with torch.no_grad():
                F.cross_entropy(model(x_val), y_val)

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=300, bound=0.61)
def deep_tanh_with_xavier() -> Program:
    x, y, x_val, y_val = data.digits()
    model = models.mlp(64, *[48] * 5, 10, activation=nn.Tanh)
    models.initialise(model, lambda weight: nn.init.xavier_uniform_(weight, gain=nn.init.calculate_gain("tanh")))
    models.initialise(model[-1:], nn.init.xavier_uniform_)
    optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        images, labels = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=300, bound=0.38)
def deep_linear_network_with_orthogonal_weights() -> Program:
    x = torch.randn(2000, 32)
    projection = nn.init.orthogonal_(torch.empty(32, 8))
    x, y, x_val, y_val = data.split(x, x @ projection + 0.1 * torch.randn(2000, 8))
    model = nn.Sequential(*(nn.Linear(32, 32, bias=False) for _ in range(5)), nn.Linear(32, 8, bias=False))
    models.initialise(model, nn.init.orthogonal_)  # the subject of Saxe et al. 2013
    optimizer = SGD(model.parameters(), lr=0.1)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        inputs, targets = next(loader)
        optimizer.zero_grad()
        F.mse_loss(model(inputs), targets).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.mse_loss))


@healthy(steps=150, bound=0.66)
def twelve_plain_layers_with_he_initialisation() -> Program:
    x, y, x_val, y_val = data.digits()
    model = models.mlp(64, *[64] * 11, 10)
    models.initialise(model[:-1], lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"))
    optimizer = Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)

    def train() -> Loop:
        for _ in range(15):
            for images, labels in loader:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(images), labels)
                loss.backward()
                optimizer.step()
                yield

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=400, bound=0.58)
def sigmoid_units_of_the_old_school() -> Program:
    x, y, x_val, y_val = data.digits()
    model = models.mlp(64, 48, 10, activation=nn.Sigmoid)
    models.initialise(model, nn.init.xavier_normal_)
    optimizer = SGD(model.parameters(), lr=0.5, momentum=0.5)
    loader = data.batches(x, y, 32)

    def step(i: int) -> None:
        images, labels = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))

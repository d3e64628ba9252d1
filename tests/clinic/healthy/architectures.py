"""Architectures with an initialisation or a norm of their own."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.optim import SGD, Adam, AdamW, RMSprop
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


@healthy(steps=250, bound=0.35)
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


@healthy(steps=200, bound=0.4)
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


@healthy(steps=250, bound=0.4)
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


@healthy(steps=300, bound=0.3)
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


@healthy(steps=300, bound=0.1)
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


class CausalConvolutions(nn.Module):
    """A temporal convolutional network: dilated, weight-normalised, residual."""

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        self.enter = nn.Conv1d(1, channels, 1)
        self.layers = nn.ModuleList(weight_norm(nn.Conv1d(channels, channels, 2, dilation=2**i)) for i in range(4))
        self.leave = nn.Conv1d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x.transpose(1, 2))
        for number, layer in enumerate(self.layers):
            x = x + F.relu(layer(F.pad(x, (2**number, 0))))
        out: Tensor = self.leave(x)[:, :, -1]
        return out


@healthy(steps=300, bound=0.1)
def weight_normalised_convolutions_in_time() -> Program:
    x, y, x_val, y_val = data.waves()
    model = CausalConvolutions()
    optimizer = Adam(model.parameters(), lr=2e-3)
    loader = DataLoader(TensorDataset(x, y), batch_size=40, shuffle=True)

    def train() -> Loop:
        while True:
            for pieces, following in loader:
                optimizer.zero_grad()
                loss = F.mse_loss(model(pieces), following)
                loss.backward()
                optimizer.step()
                yield
            with torch.no_grad():
                F.mse_loss(model(x_val), y_val)

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.mse_loss))


@healthy(steps=300, bound=0.35)
def spectrally_normalised_layers() -> Program:
    x, y, x_val, y_val = data.digits()
    model = nn.Sequential(
        spectral_norm(nn.Linear(64, 96)),
        nn.LeakyReLU(),
        spectral_norm(nn.Linear(96, 96)),
        nn.LeakyReLU(),
        nn.Linear(96, 10),
    )
    optimizer = Adam(model.parameters(), lr=2e-3)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        images, labels = next(loader)
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


class Repeated(nn.Module):
    """One block used again and again, as an Euler solver of a differential equation."""

    def __init__(self, width: int = 16, steps: int = 8) -> None:
        super().__init__()
        self.width, self.steps = width, steps
        self.slope = models.mlp(width, 48, width, activation=nn.Tanh)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = F.pad(x, (0, self.width - x.shape[1]))
        for _ in range(self.steps):
            state = state + self.slope(state) / self.steps
        out: Tensor = self.head(state)
        return out


@healthy(steps=300, bound=0.2)
def one_block_used_eight_times() -> Program:
    x, y, x_val, y_val = data.circles()
    model = Repeated()
    optimizer = RMSprop(model.parameters(), lr=3e-3)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        points, labels = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(points), labels).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


class Highway(nn.Module):
    """A layer with a gate that starts out nearly closed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.transform = nn.Linear(width, width)
        self.gate = nn.Linear(width, width)
        nn.init.constant_(self.gate.bias, -2.0)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(x).sigmoid()
        out: Tensor = gate * F.relu(self.transform(x)) + (1 - gate) * x
        return out


@healthy(steps=250, bound=0.35)
def highway_with_closed_gates() -> Program:
    x, y, x_val, y_val = data.digits()
    model = nn.Sequential(nn.Linear(64, 48), *(Highway(48) for _ in range(5)), nn.Linear(48, 10))
    optimizer = AdamW(model.parameters(), lr=2e-3)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        images, labels = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


class StochasticDepth(nn.Module):
    """A residual block that is skipped at random in training, each row on its own."""

    def __init__(self, width: int, kept: float) -> None:
        super().__init__()
        self.norm, self.branch, self.kept = nn.LayerNorm(width), models.mlp(width, 2 * width, width), kept

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(self.norm(x))
        if self.training:
            y = y * (torch.rand(len(x), 1) < self.kept) / self.kept
        out: Tensor = x + y
        return out


@healthy(steps=250, bound=0.35)
def blocks_skipped_at_random() -> Program:
    x, y, x_val, y_val = data.digits()
    depth = [StochasticDepth(48, 1 - 0.1 * number) for number in range(5)]
    model = nn.Sequential(nn.Linear(64, 48), *depth, nn.LayerNorm(48), nn.Linear(48, 10))
    optimizer = AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)

    def train() -> Loop:
        for _ in range(11):
            model.train()
            for images, labels in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(images), labels).backward()
                optimizer.step()
                yield
            model.eval()
            with torch.no_grad():
                F.cross_entropy(model(x_val), y_val)

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))


class Sines(nn.Module):
    """A layer of SIREN, with its own initialisation."""

    def __init__(self, inputs: int, outputs: int, frequency: float = 10.0, first: bool = False) -> None:
        super().__init__()
        self.linear, self.frequency = nn.Linear(inputs, outputs), frequency
        reach = 1 / inputs if first else math.sqrt(6 / inputs) / frequency
        nn.init.uniform_(self.linear.weight, -reach, reach)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.frequency * self.linear(x))


@healthy(steps=250, bound=0.05)
def image_as_a_function_of_place() -> Program:
    side = torch.linspace(-1, 1, 32)
    x = torch.cartesian_prod(side, side)
    waves = torch.sin(4 * x[:, 0] + 3 * x[:, 1]) * torch.cos(5 * x[:, 1])
    y = (waves / waves.std()).unsqueeze(1)
    x, y, x_val, y_val = data.split(x, y, train=0.9)
    model = nn.Sequential(Sines(2, 48, first=True), Sines(48, 48), nn.Linear(48, 1))
    optimizer = Adam(model.parameters(), lr=1e-3)

    def step(i: int) -> None:
        loss = ((model(x) - y) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.mse_loss))

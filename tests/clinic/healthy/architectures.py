"""Architectures out of the ordinary."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim import Adam, AdamW, RMSprop
from torch.utils.data import DataLoader, TensorDataset

from tests.clinic import data, models
from tests.clinic.case import Program, healthy
from tests.clinic.loops import mean_loss
from tests.clinic.turns import Loop, turns


@healthy(steps=300, bound=0.64)
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


@healthy(steps=400, bound=0.14)
def one_block_used_eight_times() -> Program:
    x, y, x_val, y_val = data.circles()
    model = Repeated()
    optimizer = RMSprop(model.parameters(), lr=1e-3)
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


@healthy(steps=200, bound=0.56)
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


@healthy(steps=250, bound=0.54)
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


@healthy(steps=250, bound=0.23)
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


class Binary(torch.autograd.Function):
    """The sign of each number; its gradient goes straight through where the number is small."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.where(x < 0, -1.0, 1.0)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        out: Tensor = gradients[0] * (x.abs() < 1)
        return out


class BinaryLayer(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = Binary.apply(self.norm(self.linear(x)))
        return out


@healthy(steps=300, bound=0.58)
def units_of_one_bit() -> Program:
    x, y, x_val, y_val = data.digits()
    model = nn.Sequential(BinaryLayer(64, 128), BinaryLayer(128, 128), nn.Linear(128, 10))
    optimizer = Adam(model.parameters(), lr=3e-3)
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True, drop_last=True)

    def train() -> Loop:
        for _ in range(14):
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


@healthy(steps=300, bound=0.56)
def half_of_the_weights_pruned() -> Program:
    x, y, x_val, y_val = data.digits()
    model = models.mlp(64, 96, 96, 10)
    for layer in (model[0], model[2]):
        prune.random_unstructured(layer, "weight", amount=0.5)
    optimizer = Adam(model.parameters(), lr=2e-3)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        images, labels = next(loader)
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, cross_entropy))

"""Bodies that move: time, steps of Euler, an arm of two links and its inverse."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW

from tests.clinic.case import Program, sick
from tests.clinic.data import batches, moons
from tests.clinic.loops import mean_loss


@sick("saturated-units", "unnormalized-input", steps=300, by=60, bound=0.3)
def seconds_into_tanh(fault: bool) -> Program:
    """A pendulum's angle as a function of time, which goes up to six hundred seconds."""
    t = 600 * torch.rand(1500, 1)
    angle = torch.sin(2 * math.pi * t / 300) + 0.05 * torch.randn(1500, 1)
    time = t if fault else (t - t.mean()) / t.std()
    model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = Adam(model.parameters(), lr=1e-2)
    loader = batches(time, angle, 64)

    def step(i: int) -> None:
        inputs, targets = next(loader)
        optimizer.zero_grad()
        F.mse_loss(model(inputs), targets).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, time, angle, F.mse_loss))


@sick("exploding-gradient", "poor-initialization", steps=150, by=20, bound=0.4)
def steps_of_euler_of_length_one(fault: bool) -> Program:
    """A flow over unit time in thirty steps, each of which is taken for the whole time."""

    class Flow(nn.Module):
        def __init__(self, steps: int = 30) -> None:
            super().__init__()
            self.steps = steps
            self.lift = nn.Linear(2, 16)
            self.field = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))
            self.head = nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            state = self.lift(x)
            for _ in range(self.steps):
                state = state + (1.0 if fault else 1 / self.steps) * self.field(state)
            out: Tensor = self.head(state)
            return out

    task = moons()
    model = Flow()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    loader = batches(task.x, task.y, 32)
    criterion = nn.CrossEntropyLoss()

    def step(i: int) -> None:
        points, labels = next(loader)
        optimizer.zero_grad()
        criterion(model(points), labels).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, task.x, task.y, F.cross_entropy))


def _arm(angles: Tensor) -> Tensor:
    """Where the hand of an arm of two links is."""
    first, both = angles[:, 0], angles.sum(1)
    return torch.stack((first.cos() + 0.8 * both.cos(), first.sin() + 0.8 * both.sin()), 1)


@sick("missing-nonlinearity", steps=250, by=60, bound=0.3, layers=("fc1", "fc2", "fc3"))
def arm_of_linear_layers(fault: bool) -> Program:
    """Dropout stands between the layers, and nothing else."""

    class Kinematics(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2, self.fc3 = nn.Linear(2, 64), nn.Linear(64, 64), nn.Linear(64, 2)
            self.dropout = nn.Dropout(0.02)

        def forward(self, angles: Tensor) -> Tensor:
            x = self.fc1(angles)
            x = self.dropout(x if fault else F.silu(x))
            x = self.fc2(x)
            x = self.dropout(x if fault else F.silu(x))
            out: Tensor = self.fc3(x)
            return out

    angles = math.pi * (2 * torch.rand(2000, 2) - 1)
    hand = _arm(angles)
    model = Kinematics()
    optimizer = AdamW(model.parameters(), lr=5e-3)
    loader = batches(angles, hand, 64)

    def step(i: int) -> None:
        inputs, targets = next(loader)
        loss = F.mse_loss(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, angles, hand, F.mse_loss))


class _Mixture(nn.Module):
    """A mixture of Gaussians over ``outputs`` numbers, all its parameters made by a network."""

    def __init__(self, inputs: int, outputs: int, parts: int, alike: bool = False) -> None:
        super().__init__()
        self.outputs, self.parts = outputs, parts
        self.hidden = nn.Sequential(nn.Linear(inputs, 48), nn.Tanh())
        self.pi = nn.Linear(48, parts)
        self.mu = nn.Linear(48, parts * outputs)
        self.log_sigma = nn.Linear(48, parts * outputs)
        if alike:
            for head in (self.pi, self.mu, self.log_sigma):
                nn.init.zeros_(head.weight)
                nn.init.zeros_(head.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.hidden(x)
        shape = (len(x), self.parts, self.outputs)
        return self.pi(hidden), self.mu(hidden).view(shape), self.log_sigma(hidden).view(shape)


def _surprise(parts: tuple[Tensor, Tensor, Tensor], y: Tensor) -> Tensor:
    pi, mu, log_sigma = parts
    each = -((y.unsqueeze(1) - mu) / log_sigma.exp()).square() / 2 - log_sigma - math.log(2 * math.pi) / 2
    return -(F.log_softmax(pi, 1) + each.sum(2)).logsumexp(1).mean()


@sick("non-finite", steps=150, by=10, bound=70.0)
def logarithm_of_a_sum_of_tiny_densities(fault: bool) -> Program:
    """The density of sixty numbers at once is rounded to zero, and its logarithm is minus infinity."""
    x = torch.rand(1000, 3) * 2 - 1
    time = torch.linspace(0, 6, 60)
    y = x[:, :1] + torch.sin(time * (1.5 + x[:, 1:2])) + x[:, 2:] * time.cos() + 0.3 * torch.randn(1000, 60)
    y = (y - y.mean()) / y.std()
    model = _Mixture(3, 60, 4)
    optimizer = Adam(model.parameters(), lr=3e-3)
    loader = batches(x, y, 32)

    def density(parts: tuple[Tensor, Tensor, Tensor], y: Tensor) -> Tensor:
        pi, mu, log_sigma = parts
        sigma = log_sigma.exp()
        each = torch.exp(-((y.unsqueeze(1) - mu) / sigma).square() / 2) / (sigma * math.sqrt(2 * math.pi))
        return (pi.softmax(1) * each.prod(2)).sum(1)

    def step(i: int) -> None:
        inputs, targets = next(loader)
        out = model(inputs)
        loss = -density(out, targets).log().mean() if fault else _surprise(out, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return float(_surprise(model(x), y))

    return Program(model, optimizer, step, loss)


@sick("symmetric-initialization", steps=300, by=60, bound=0.0, layers=("mu",))
def parts_of_a_mixture_that_start_alike(fault: bool) -> Program:
    """With heads of zeros all parts are the same Gaussian, get the same gradient, and stay the same."""
    angles = torch.stack(
        (2 * torch.rand(2000) - 1, (0.4 + 1.8 * torch.rand(2000)) * (1 - 2 * torch.randint(2, (2000,)))), 1
    )
    hand = _arm(angles)
    model = _Mixture(2, 2, 4, alike=fault)
    optimizer = Adam(model.parameters(), lr=5e-3)
    loader = batches(hand, angles, 128)

    def step(i: int) -> None:
        where, how = next(loader)
        optimizer.zero_grad()
        loss = _surprise(model(where), how)
        loss.backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return float(_surprise(model(hand), angles))

    return Program(model, optimizer, step, loss)

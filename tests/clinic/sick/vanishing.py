"""Gradients that fade on their way to the early layers, or to the early steps of a sequence."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam

from tests.clinic import data, models
from tests.clinic.case import Program, sick
from tests.clinic.loops import cross_entropy, errors, mean_loss, supervised

EARLY = tuple(str(2 * place) for place in range(7))


@sick("vanishing-gradient", "poor-initialization", steps=250, by=50, bound=0.4, layers=EARLY)
def twelve_sigmoids(fault: bool) -> Program:
    model = models.mlp(64, *[48] * 12, 10, activation=nn.Sigmoid if fault else nn.Tanh)
    models.initialise(model, nn.init.xavier_normal_)
    task = data.digits()
    optimizer = SGD(model.parameters(), lr=0.03, momentum=0.9)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), errors(model, task.x, task.y))


@sick("vanishing-gradient", "poor-initialization", steps=250, by=50, bound=0.4, layers=EARLY[:5])
def eight_sigmoids_in_regression(fault: bool) -> Program:
    model = models.mlp(10, *[32] * 8, 1, activation=nn.Sigmoid if fault else nn.ReLU)
    if not fault:
        models.initialise(model, nn.init.kaiming_normal_)
    task = data.friedman()
    optimizer = Adam(model.parameters(), lr=1e-3)
    return supervised(model, optimizer, task, nn.MSELoss(), mean_loss(model, task.x, task.y, F.mse_loss))


@sick(
    "vanishing-gradient",
    "poor-initialization",
    steps=120,
    by=50,
    bound=0.5,
    layers=("stem", *(f"layers.{place}" for place in range(18))),
)
def twenty_plain_convolutions(fault: bool) -> Program:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, 12, 3, padding=1, stride=2)
            self.layers = nn.ModuleList(nn.Conv2d(12, 12, 3, padding=1) for _ in range(18))
            self.head = nn.Linear(12 * 16, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.stem(x))
            for layer in self.layers:
                x = F.relu(layer(x)) if fault else x + 0.3 * F.relu(layer(x))
            out: Tensor = self.head(x.flatten(1))
            return out

    model = Plain()
    task = data.digits(1, 8, 8)
    optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9)
    return supervised(model, optimizer, task, lambda p, t: F.cross_entropy(p, t), errors(model, task.x, task.y))


@sick("vanishing-gradient", steps=300, by=50, bound=0.8, layers=("recurrent",))
def plain_rnn_over_eighty_steps(fault: bool) -> Program:
    model = models.Recurrent(nn.RNN if fault else nn.GRU, 12, 24, 6, tokens=True)
    if not fault:
        nn.init.constant_(model.recurrent.bias_ih_l0[24:48], 3.0)  # remembers at first: the update gate is closed
    task = data.recall(length=80)
    optimizer = Adam(model.parameters(), lr=1e-2)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), mean_loss(model, task.x, task.y, cross_entropy))


@sick("vanishing-gradient", steps=300, by=50, bound=0.11, layers=("recurrent",))
def lstm_that_forgets(fault: bool) -> Program:
    model = models.Recurrent(nn.LSTM, 2, 24, 1)
    nn.init.constant_(model.recurrent.bias_ih_l0[24:48], -8.0 if fault else 2.0)  # of the forget gate
    task = data.adding(length=40)
    optimizer = Adam(model.parameters(), lr=1e-2)
    return supervised(model, optimizer, task, nn.MSELoss(), mean_loss(model, task.x, task.y, F.mse_loss))


@sick("vanishing-gradient", "saturated-units", steps=140, by=50, bound=0.13)
def discriminator_too_good(fault: bool) -> Program:
    """A generator learns by log(1 - D) from a discriminator that is trained five times as much."""
    generator, discriminator = models.mlp(4, 32, 32, 2), models.mlp(2, 64, 64, 1)
    points = data.ring(modes=1)
    first = Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
    second = Adam(discriminator.parameters(), lr=5e-3 if fault else 1e-3, betas=(0.5, 0.999))

    def step(i: int) -> None:
        for _ in range(5 if fault else 1):
            real = points[torch.randint(len(points), (64,))]
            fake = generator(torch.randn(64, 4)).detach()
            second.zero_grad()
            loss = F.softplus(-discriminator(real)).mean() + F.softplus(discriminator(fake)).mean()
            loss.backward()
            second.step()
        first.zero_grad()
        score = discriminator(generator(torch.randn(64, 4)))
        loss = -F.softplus(score).mean() if fault else F.softplus(-score).mean()
        loss.backward()
        first.step()

    def loss() -> float:
        with torch.no_grad():
            return float((generator(torch.randn(500, 4)).mean(0) - points.mean(0)).norm())

    return Program(generator, first, step, loss)

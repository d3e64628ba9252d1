"""`zero_grad` forgotten, or called for another optimizer, or at the wrong place."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Adam

from tests.clinic import data, models
from tests.clinic.case import Program, sick
from tests.clinic.loops import cross_entropy, errors, mean_loss


@sick("stale-gradient", steps=200, by=50, bound=0.5)
def zero_grad_missing(fault: bool) -> Program:
    model = models.mlp(64, 64, 64, 10)
    task = data.digits()
    loader = data.batches(task.x, task.y, 32)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    criterion = nn.CrossEntropyLoss()

    def step(i: int) -> None:
        inputs, targets = next(loader)
        if not fault:
            optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, task.x, task.y, cross_entropy))


@sick("stale-gradient", steps=200, by=50, bound=0.5)
def zero_grad_missing_with_adam(fault: bool) -> Program:
    model = models.Recurrent(nn.GRU, 8, 32, 10)
    task = data.digits(8, 8)
    loader = data.batches(task.x, task.y, 32)
    optimizer = Adam(model.parameters(), lr=1e-2)

    def step(i: int) -> None:
        inputs, targets = next(loader)
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        if not fault:
            model.zero_grad()

    return Program(model, optimizer, step, mean_loss(model, task.x, task.y, cross_entropy))


@sick("stale-gradient", steps=250, by=50, bound=0.4)
def critic_keeps_the_generators_gradients(fault: bool) -> Program:
    generator, critic = models.mlp(4, 32, 32, 2), models.mlp(2, 64, 64, 1)
    points = data.ring(modes=1)
    first = Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
    second = SGD(critic.parameters(), lr=0.1)

    def step(i: int) -> None:
        real, fake = points[torch.randint(len(points), (64,))], generator(torch.randn(64, 4))
        if not fault:
            second.zero_grad()
        loss = F.softplus(-critic(real)).mean() + F.softplus(critic(fake.detach())).mean()
        loss.backward()
        second.step()
        first.zero_grad()
        F.softplus(-critic(fake)).mean().backward()
        first.step()

    def loss() -> float:
        with torch.no_grad():
            return float((generator(torch.randn(500, 4)).mean(0) - points.mean(0)).norm())

    return Program(critic, second, step, loss)


@sick("weights-not-updated", "no-gradient", steps=150, by=50, bound=0.3)
def zero_grad_between_backward_and_step(fault: bool) -> Program:
    model = models.cnn((8, 16))
    task = data.digits(1, 8, 8)
    loader = data.batches(task.x, task.y, 32)
    optimizer = Adam(model.parameters(), lr=3e-3)

    def step(i: int) -> None:
        inputs, targets = next(loader)
        if not fault:
            optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        if fault:
            optimizer.zero_grad()
        optimizer.step()

    return Program(model, optimizer, step, errors(model, task.x, task.y))

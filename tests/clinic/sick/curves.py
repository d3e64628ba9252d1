"""Losses that rise, for good or for a moment."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import LambdaLR

from tests.clinic import data, models
from tests.clinic.case import Program, sick
from tests.clinic.loops import cross_entropy, errors, mean_loss, supervised


@sick("diverging-loss", "not-learning", steps=200, by=60, bound=0.5)
def sign_of_the_loss_flipped(fault: bool) -> Program:
    model = models.mlp(64, 64, 10)
    task = data.digits()
    optimizer = SGD(model.parameters(), lr=0.1)
    criterion = nn.CrossEntropyLoss()
    sign = -1.0 if fault else 1.0
    loss = mean_loss(model, task.x, task.y, cross_entropy)
    return supervised(model, optimizer, task, lambda p, t: sign * criterion(p, t), loss)


@sick("diverging-loss", "not-learning", "learning-rate-too-large", steps=200, by=60, bound=0.5)
def optimizer_that_maximises(fault: bool) -> Program:
    model = models.Recurrent(nn.GRU, 1, 32, 1)
    task = data.waves()
    optimizer = Adam(model.parameters(), lr=3e-3, maximize=fault)
    return supervised(model, optimizer, task, nn.MSELoss(), mean_loss(model, task.x, task.y, F.mse_loss))


@sick("diverging-loss", "exploding-gradient", "learning-rate-too-large", steps=300, by=200, bound=0.5)
def feedback_into_its_own_targets(fault: bool) -> Program:
    """A value network learns from its own estimates, with a discount above one."""
    model = models.mlp(8, 32, 1)
    states, rewards = torch.randn(500, 8), torch.randn(500, 1)
    following = states[torch.randperm(500)]
    optimizer = SGD(model.parameters(), lr=0.05)
    discount = 1.1 if fault else 0.5

    def step(i: int) -> None:
        chosen = torch.randint(500, (64,))
        with torch.no_grad():
            target = rewards[chosen] + 1.0 + discount * model(following[chosen])
        loss = F.mse_loss(model(states[chosen]), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        """How far the mean value is from the true one of a discount of a half, 2."""
        with torch.no_grad():
            return abs(float(model(states).mean()) - 2)

    return Program(model, optimizer, step, loss)


@sick("loss-spike", steps=400, by=240, bound=0.056)
def batch_with_broken_targets(fault: bool) -> Program:
    """The rows of one file carry a target in another unit."""
    model = models.mlp(10, 32, 1)
    task = data.friedman()
    loader = data.batches(task.x, task.y, 32)
    optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9)

    def step(i: int) -> None:
        inputs, targets = next(loader)
        if fault and i == 200:
            targets = 60 * targets
        optimizer.zero_grad()
        F.mse_loss(model(inputs), targets).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, task.x, task.y, F.mse_loss))


@sick("loss-spike", steps=400, by=200)
def corrupted_image_in_each_epoch(fault: bool) -> Program:
    model = models.cnn((8, 16), norm=False)
    task = data.digits(1, 8, 8)
    images = task.x.clone()
    if fault:
        images[:6] = 60 * torch.randn(6, 1, 8, 8)  # decoded with the wrong number of bits
    optimizer = Adam(model.parameters(), lr=2e-3)
    return supervised(
        model, optimizer, task._replace(x=images), lambda p, t: F.cross_entropy(p, t), errors(model, task.x, task.y)
    )


@sick("loss-spike", "learning-rate-too-large", steps=300, by=210)
def restart_of_the_learning_rate(fault: bool) -> Program:
    """A warm restart a hundred times above the first learning rate."""
    model = models.mlp(64, 64, 64, 10)
    task = data.digits()
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = LambdaLR(optimizer, lambda i: 25.0 if fault and 180 <= i < 183 else 1.0)
    loss = mean_loss(model, task.x, task.y, cross_entropy)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), loss, scheduler=scheduler)

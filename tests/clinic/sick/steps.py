"""Steps that lead nowhere: noise, walls, plateaus, growing or shrinking weights."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

from tests.clinic import data, models
from tests.clinic.case import Program, sick
from tests.clinic.loops import cross_entropy, errors, mean_loss, supervised


@sick("noisy-gradient", "learning-rate-too-large", "oscillating-loss", steps=600, by=300, bound=0.47)
def one_sample_a_step(fault: bool) -> Program:
    model = models.mlp(10, 32, 1, activation=nn.Tanh)
    task = data.friedman(noise=3.0)
    optimizer = SGD(model.parameters(), lr=0.04)
    loss = mean_loss(model, task.x, task.y, F.mse_loss)
    return supervised(model, optimizer, task, nn.MSELoss(), loss, batch=1 if fault else 64)


@sick("noisy-gradient", "learning-rate-too-large", "oscillating-loss", steps=600, by=300, bound=0.084)
def two_noisy_labels_a_step(fault: bool) -> Program:
    model = models.mlp(64, 64, 10)
    task = data.digits()
    wrong = torch.rand(len(task.y)) < 0.3
    labels = torch.where(wrong, torch.randint(10, task.y.shape), task.y)
    optimizer = SGD(model.parameters(), lr=0.1)
    loader = data.batches(task.x, labels, 2 if fault else 64)

    def step(i: int) -> None:
        inputs, targets = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    return Program(model, optimizer, step, errors(model, task.x, task.y))


@sick(
    "noisy-gradient",
    steps=400,
    by=200,
    bound=-0.6,
    miss="the gain of the policy is as noisy with a baseline, at these batches",
)
def policy_gradient_without_a_baseline(fault: bool) -> Program:
    """A bandit with contexts: rewards around 10 and one episode a step drown the difference between the actions."""
    model = models.mlp(4, 32, 5)
    best = torch.randn(4, 5)
    optimizer = SGD(model.parameters(), lr=0.02)
    episodes = 1 if fault else 64

    def step(i: int) -> None:
        context = torch.randn(episodes, 4)
        policy = torch.distributions.Categorical(logits=model(context))
        action = policy.sample()
        reward = (action == (context @ best).argmax(1)).float() + (10.0 if fault else 0.0)
        advantage = reward if fault else 5 * (reward - reward.mean())
        loss = -(policy.log_prob(action) * advantage).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        """The reward's negative."""
        with torch.no_grad():
            context = torch.randn(2000, 4)
            chances = model(context).softmax(1)
            return -float(chances.gather(1, (context @ best).argmax(1, keepdim=True)).mean())

    return Program(model, optimizer, step, loss)


@sick("oscillating-loss", "learning-rate-too-large", steps=200, by=100, bound=0.59)
def full_batch_between_two_walls(fault: bool) -> Program:
    """Two features that are nearly the same make a ravine: the step is as long as it is wide."""
    model = nn.Linear(10, 1)
    task = data.diabetes()
    inputs, targets = task.x, task.y
    curvature = float(torch.linalg.eigvalsh(2 * inputs.T @ inputs / len(inputs)).max())
    optimizer = SGD(model.parameters(), lr=1.999 / curvature if fault else 0.5 / curvature)
    if fault:
        nn.init.normal_(model.weight)

    def step(i: int) -> None:
        optimizer.zero_grad()
        F.mse_loss(model(inputs), targets).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, inputs, targets, F.mse_loss))


@sick("oscillating-loss", "learning-rate-too-large", steps=300, by=150, bound=0.17)
def adam_bounces_at_the_end(fault: bool) -> Program:
    model = models.mlp(64, 32, 10, activation=nn.Tanh)
    task = data.digits()
    optimizer = Adam(model.parameters(), lr=0.1 if fault else 3e-3)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), mean_loss(model, task.x, task.y, cross_entropy))


@sick(
    "loss-plateau",
    "noisy-gradient",
    "oscillating-loss",
    "learning-rate-too-large",
    steps=600,
    by=400,
    bound=0.25,
    note=True,
)
def constant_rate_at_the_noise_floor(fault: bool) -> Program:
    model = nn.Linear(10, 1)
    truth = torch.randn(10, 1)
    x = torch.randn(2000, 10)
    table = data.Data(x, x @ truth + 2 * torch.randn(2000, 1), x, x @ truth)
    optimizer = SGD(model.parameters(), lr=0.1)
    scheduler = None if fault else CosineAnnealingLR(optimizer, 600)
    loss = mean_loss(model, table.x_val, table.y_val, F.mse_loss)
    return supervised(model, optimizer, table, nn.MSELoss(), loss, batch=8, scheduler=scheduler)


@sick(
    "loss-plateau",
    "noisy-gradient",
    "oscillating-loss",
    "learning-rate-too-large",
    steps=600,
    by=500,
    bound=0.06,
    note=True,
)
def wrong_labels_and_no_decay(fault: bool) -> Program:
    model = models.mlp(64, 32, 10)
    task = data.digits()
    wrong = torch.rand(len(task.y)) < 0.4
    labels = torch.where(wrong, torch.randint(10, task.y.shape), task.y)
    optimizer = SGD(model.parameters(), lr=0.2)
    scheduler = None if fault else LambdaLR(optimizer, lambda i: 0.1 ** (i // 250))
    loss = errors(model, task.x, task.y)
    return supervised(
        model, optimizer, task._replace(y=labels), nn.CrossEntropyLoss(), loss, batch=16, scheduler=scheduler
    )


@sick("weight-growth", "diverging-loss", "learning-rate-too-large", steps=300, by=150, bound=60.0)
def critic_without_a_constraint(fault: bool) -> Program:
    """A Wasserstein critic without clipping or penalty: its loss has no bound below, so its weights have none above."""
    critic = models.mlp(2, 48, 48, 1)
    real, fake = data.ring(), torch.randn(2000, 2)
    optimizer = Adam(critic.parameters(), lr=5e-3)

    def step(i: int) -> None:
        first, second = real[torch.randint(2000, (64,))], fake[torch.randint(2000, (64,))]
        loss = critic(second).mean() - critic(first).mean()
        if not fault:
            mixed = (first + torch.rand(64, 1) * (second - first)).requires_grad_()
            (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
            loss = loss + 10 * ((slope.norm(dim=1) - 1) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        """How large the critic's answers are."""
        with torch.no_grad():
            return float(critic(real).abs().mean())

    return Program(critic, optimizer, step, loss)


@sick("weight-growth", "learning-rate-too-large", "over-regularized", steps=300, by=150, bound=0.0)
def negative_weight_decay(fault: bool) -> Program:
    """The penalty was subtracted: weights are rewarded for growing."""
    model = models.cnn((8, 16))
    task = data.digits(1, 8, 8)
    loader = data.batches(task.x, task.y, 32)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    before = _size(model)

    def step(i: int) -> None:
        inputs, targets = next(loader)
        penalty = sum(p.square().sum() for p in model.parameters())
        loss = F.cross_entropy(model(inputs), targets) + (-0.02 if fault else 1e-4) * penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, lambda: _size(model) / before - 2)


def _size(model: nn.Module) -> float:
    with torch.no_grad():
        return math.sqrt(sum(float(p.square().sum()) for p in model.parameters()))


@sick("over-regularized", "underfitting", steps=300, by=100, bound=0.25)
def weight_decay_of_five(fault: bool) -> Program:
    model = models.mlp(64, 64, 64, 10)
    task = data.digits()
    optimizer = AdamW(model.parameters(), lr=3e-3, weight_decay=5.0 if fault else 0.01)
    loss = mean_loss(model, task.x, task.y, cross_entropy)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), loss, validate=True)


@sick("over-regularized", "underfitting", steps=200, by=100, bound=0.5)
def weight_decay_of_one_with_sgd(fault: bool) -> Program:
    model = models.resnet(1, 12)
    task = data.digits(1, 8, 8)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1.0 if fault else 5e-4)
    return supervised(
        model, optimizer, task, lambda p, t: F.cross_entropy(p, t), mean_loss(model, task.x, task.y, cross_entropy)
    )


@sick("over-regularized", "underfitting", steps=300, by=100, bound=0.15)
def lasso_penalty_too_large(fault: bool) -> Program:
    model = models.mlp(10, 32, 1)
    task = data.friedman()
    loader = data.batches(task.x, task.y, 32)
    optimizer = Adam(model.parameters(), lr=5e-3)

    def step(i: int) -> None:
        inputs, targets = next(loader)
        penalty = sum(p.abs().sum() for p in model.parameters())
        loss = F.mse_loss(model(inputs), targets) + (0.1 if fault else 1e-5) * penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, task.x, task.y, F.mse_loss))

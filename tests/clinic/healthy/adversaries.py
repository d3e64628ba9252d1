"""Generators and those who judge them."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from tests.clinic import data, models
from tests.clinic.case import Program, healthy
from tests.clinic.turns import Loop, turns


def sliced_distance(one: Tensor, other: Tensor, directions: int = 64) -> float:
    """Wasserstein distance of two samples of one size, over directions of the plane."""
    angle = torch.arange(directions) * math.pi / directions
    axes = torch.stack((angle.cos(), angle.sin()))
    return ((one @ axes).sort(0)[0] - (other @ axes).sort(0)[0]).abs().mean().item()


@healthy(steps=600, bound=0.27)
def adversarial_networks() -> Program:
    points = data.ring()
    generator = models.mlp(4, 64, 64, 2)
    discriminator = models.mlp(2, 64, 64, 1, activation=lambda: nn.LeakyReLU(0.2))
    g_optimizer = Adam(generator.parameters(), lr=5e-4, betas=(0.5, 0.99))
    d_optimizer = Adam(discriminator.parameters(), lr=2e-3, betas=(0.5, 0.99))
    criterion = nn.BCEWithLogitsLoss()
    real_label, fake_label = torch.ones(128, 1), torch.zeros(128, 1)
    model = nn.ModuleDict({"generator": generator, "discriminator": discriminator})

    def step(i: int) -> None:
        real = points[torch.randint(len(points), (128,))]
        fake = generator(torch.randn(128, 4))
        d_optimizer.zero_grad()
        d_loss = criterion(discriminator(real), real_label) + criterion(discriminator(fake.detach()), fake_label)
        d_loss.backward()
        d_optimizer.step()
        g_optimizer.zero_grad()
        g_loss = criterion(discriminator(fake), real_label)
        g_loss.backward()
        g_optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return sliced_distance(generator(torch.randn(len(points), 4)), points)

    return Program(model, g_optimizer, step, loss)


@healthy(steps=400, bound=0.34)
def generator_against_a_penalised_critic() -> Program:
    points = data.ring()
    generator = models.mlp(4, 64, 64, 2)
    critic = models.mlp(2, 64, 64, 1, activation=nn.SiLU)
    average = copy.deepcopy(generator)
    g_optimizer = Adam(generator.parameters(), lr=1e-3, betas=(0.0, 0.99))
    d_optimizer = Adam(critic.parameters(), lr=1e-3, betas=(0.0, 0.99))

    def train() -> Loop:
        while True:
            real = points[torch.randint(len(points), (128,))].requires_grad_()
            with torch.no_grad():
                fake = generator(torch.randn(128, 4))
            score = critic(real)
            (slope,) = torch.autograd.grad(score.sum(), real, create_graph=True)
            penalty = 0.15 * slope.square().sum(1).mean()
            d_optimizer.zero_grad()
            (F.softplus(critic(fake)).mean() + F.softplus(-score).mean() + penalty).backward()
            d_optimizer.step()

            critic.requires_grad_(False)
            g_optimizer.zero_grad()
            F.softplus(-critic(generator(torch.randn(128, 4)))).mean().backward()
            g_optimizer.step()
            critic.requires_grad_(True)
            with torch.no_grad():
                for slow, fast in zip(average.parameters(), generator.parameters(), strict=True):
                    slow.lerp_(fast, 0.01)
            yield

    def loss() -> float:
        with torch.no_grad():
            return sliced_distance(average(torch.randn(len(points), 4)), points)

    return Program(generator, g_optimizer, turns(train()), loss)

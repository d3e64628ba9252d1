"""Losses over pairs and orders instead of targets."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, AdamW

from tests.clinic import models
from tests.clinic.case import Program, healthy


@healthy(steps=200, bound=3.55)
def survival_by_partial_likelihood() -> Program:
    x = torch.randn(1500, 8)
    risk = x[:, 0] - 0.8 * x[:, 1] + 0.5 * x[:, 2] * x[:, 3]
    time = torch.distributions.Exponential(risk.exp()).sample()
    seen = torch.rand(1500) < 0.7  # the others are censored
    model = nn.Sequential(models.mlp(8, 32, 1), nn.Flatten(0))
    optimizer = AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)

    def cox_loss(chosen: Tensor) -> Tensor:
        latest_first = chosen[time[chosen].argsort(descending=True)]
        score = model(x[latest_first])
        losses: Tensor = score.logcumsumexp(0) - score
        return losses[seen[latest_first]].mean()

    def step(i: int) -> None:
        optimizer.zero_grad()
        loss = cox_loss(torch.randperm(1200)[:128])
        loss.backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return cox_loss(torch.arange(1200, 1500)).item() - math.log(300 / 128)

    return Program(model, optimizer, step, loss)


@healthy(steps=400, bound=0.43)
def preferences_between_pairs() -> Program:
    x = torch.randn(3000, 10)
    worth = x[:, 0] + torch.sin(2 * x[:, 1]) + x[:, 2].abs()
    model = nn.Sequential(models.mlp(10, 48, 1, activation=nn.ReLU), nn.Flatten(0))
    optimizer = Adam(model.parameters(), lr=2e-3)

    def pair_loss(size: int, low: int, high: int) -> Tensor:
        one, other = torch.randint(low, high, (2, size))
        better = (worth[one] > worth[other]).float()
        return F.binary_cross_entropy_with_logits(model(x[one]) - model(x[other]), better)

    def step(i: int) -> None:
        optimizer.zero_grad()
        pair_loss(64, 0, 2500).backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return pair_loss(20_000, 2500, 3000).item()

    return Program(model, optimizer, step, loss)

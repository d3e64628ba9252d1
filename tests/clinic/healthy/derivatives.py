"""Gradients of gradients, and weights that another network makes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Adam
from torch.optim.lr_scheduler import ExponentialLR

from tests.clinic import models
from tests.clinic.case import Program, healthy


@healthy(steps=500, bound=0.099)
def differential_equation_through_second_derivatives() -> Program:
    model = models.mlp(1, 32, 32, 1, activation=nn.Tanh)  # y'' = -4 y, y(0) = 1, y'(0) = 0: y = cos 2t
    models.initialise(model, nn.init.xavier_normal_)
    optimizer = Adam(model.parameters(), lr=5e-3)
    scheduler = ExponentialLR(optimizer, 0.997)

    def derivative(of: Tensor, by: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(of.sum(), by, create_graph=True)
        return slope

    def step(i: int) -> None:
        time = (3 * torch.rand(128, 1) - 1.5).requires_grad_()
        start = torch.zeros(1, 1, requires_grad=True)
        inside, begin = model(time), model(start)
        residual = derivative(derivative(inside, time), time) + 4 * inside
        boundary = (begin - 1) ** 2 + derivative(begin, start) ** 2
        loss = residual.pow(2).mean() + 10 * boundary.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()

    def loss() -> float:
        time = torch.linspace(-1.5, 1.5, 100).unsqueeze(1)
        with torch.no_grad():
            return F.mse_loss(model(time), torch.cos(2 * time)).item()

    return Program(model, optimizer, step, loss)


@healthy(steps=400, bound=0.19)
def energy_whose_gradient_is_the_force() -> Program:
    model = models.mlp(2, 48, 48, 1, activation=nn.Softplus)
    optimizer = Adam(model.parameters(), lr=5e-3)

    def force(points: Tensor) -> Tensor:  # of the energy sin x + y² / 2
        return -torch.stack((points[:, 0].cos(), points[:, 1]), 1)

    def force_loss(points: Tensor) -> Tensor:
        points = points.requires_grad_()
        (slope,) = torch.autograd.grad(model(points).sum(), points, create_graph=True)
        return F.mse_loss(-slope, force(points.detach()))

    def step(i: int) -> None:
        optimizer.zero_grad()
        loss = force_loss(1.2 * torch.randn(128, 2))
        loss.backward()
        optimizer.step()

    def loss() -> float:
        return force_loss(1.2 * torch.randn(1000, 2)).item()

    return Program(model, optimizer, step, loss)


@healthy(steps=300, bound=0.17)
def kernels_made_by_another_network() -> Program:
    phase = 2 * math.pi * torch.rand(400, 1)
    model = models.mlp(2, 64, 16 + 16 + 16 + 1)
    optimizer = Adam(model.parameters(), lr=3e-3)

    def curve(code: Tensor, x: Tensor) -> Tensor:  # a small network for each row of the code
        weights = model(torch.cat((code.sin(), code.cos()), 1))
        first, bias, second, last = weights.split((16, 16, 16, 1), 1)
        hidden = torch.tanh(x.unsqueeze(2) * 2 * first.unsqueeze(1) + bias.unsqueeze(1))
        out: Tensor = (hidden * second.unsqueeze(1)).sum(2) + last
        return out

    def curve_loss(code: Tensor) -> Tensor:
        x = 2 * torch.rand(len(code), 16) - 1
        return F.mse_loss(curve(code, x), 1.4 * torch.sin(3 * x + code))

    def step(i: int) -> None:
        loss = curve_loss(phase[torch.randint(400, (64,))])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return curve_loss(2 * math.pi * torch.rand(400, 1)).item()

    return Program(model, optimizer, step, loss)


@healthy(steps=150, bound=0.24)
def learning_to_learn() -> Program:
    model = models.mlp(1, 40, 40, 1)  # MAML: weights from which one step fits any of many sines
    optimizer = Adam(model.parameters(), lr=2e-3)

    def adapted_loss(tasks: int) -> Tensor:
        total = torch.zeros(())
        for _ in range(tasks):
            height, phase = 0.5 + torch.rand(()), torch.rand(())
            x = 4 * torch.rand(40, 1) - 2
            y = height * torch.sin(2 * (x - phase))
            weights: dict[str, Tensor] = dict(model.named_parameters())
            inner = F.mse_loss(functional_call(model, weights, (x[:20],)), y[:20])
            slopes = torch.autograd.grad(inner, list(weights.values()), create_graph=True)
            faster = {name: w - 0.05 * g for (name, w), g in zip(weights.items(), slopes, strict=True)}
            total = total + F.mse_loss(functional_call(model, faster, (x[20:],)), y[20:])
        return total / tasks

    def step(i: int) -> None:
        optimizer.zero_grad()
        adapted_loss(6).backward()
        optimizer.step()

    def loss() -> float:
        return adapted_loss(300).item()

    return Program(model, optimizer, step, loss)

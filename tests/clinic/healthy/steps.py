"""Steps taken by hand or by an optimizer of one's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam, Optimizer
from torch.utils.data import DataLoader, TensorDataset

from tests.clinic import data, models
from tests.clinic.case import Program, healthy
from tests.clinic.loops import mean_loss
from tests.clinic.turns import Loop, turns


@healthy(steps=200, bound=0.56)
def gradients_by_autograd_grad() -> Program:
    x, y, x_val, y_val = data.digits()
    model = models.mlp(64, 64, 10)
    parameters = list(model.parameters())
    optimizer = Adam(parameters, lr=3e-3)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        images, labels = next(loader)
        loss = cross_entropy(model(images), labels)
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, cross_entropy))


class Lion(Optimizer):
    """Steps by the sign of an average of gradients (Chen et al. 2023), written by the user."""

    def __init__(self, params: Any, lr: float = 1e-3, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                average = self.state[parameter].setdefault("average", torch.zeros_like(parameter))
                direction = (0.9 * average + 0.1 * parameter.grad).sign()
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=group["lr"])
                average.lerp_(parameter.grad, 0.01)


@healthy(steps=300, bound=0.58)
def optimizer_of_ones_own() -> Program:
    x, y, x_val, y_val = data.digits()
    model = models.mlp(64, 96, 10, activation=nn.GELU)
    optimizer = Lion(model.parameters(), lr=5e-4, weight_decay=0.1)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        images, labels = next(loader)
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, cross_entropy))


@healthy(steps=250, bound=0.53)
def two_passes_a_step_for_flatness() -> Program:
    x, y, x_val, y_val = data.digits()
    model = models.mlp(64, 64, 10)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)

    def train() -> Loop:  # sharpness-aware minimisation
        while True:
            for images, labels in loader:
                cross_entropy(model(images), labels).backward()
                with torch.no_grad():
                    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
                    climbs = [0.05 * p.grad / norm for p in model.parameters() if p.grad is not None]
                    for parameter, climb in zip(model.parameters(), climbs, strict=True):
                        parameter.add_(climb)
                optimizer.zero_grad()
                cross_entropy(model(images), labels).backward()
                with torch.no_grad():
                    for parameter, climb in zip(model.parameters(), climbs, strict=True):
                        parameter.sub_(climb)
                optimizer.step()
                optimizer.zero_grad()
                yield

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, cross_entropy))

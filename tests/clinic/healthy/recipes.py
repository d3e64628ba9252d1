"""Optimizers of one's own and other steps out of the ordinary."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.optim import SGD, Adam, AdamW, Optimizer, Rprop
from torch.optim.lr_scheduler import ExponentialLR

from tests.clinic import data, models
from tests.clinic.case import Program, healthy
from tests.clinic.loops import mean_loss, supervised


class Lion(Optimizer):
    """Steps of the momentum's sign (Chen et al. 2023): each weight moves by the rate, whatever its gradient."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["decay"])
                p.sub_(group["lr"] * (0.9 * momentum + 0.1 * p.grad).sign())
                momentum.lerp_(p.grad, 0.01)


@healthy(steps=250, bound=0.51)
def signs_of_the_momentum() -> Program:
    model = models.resnet(1, 12)
    x, y, x_val, y_val = data.digits(1, 8, 8)
    optimizer = Lion(model.parameters(), lr=5e-4, decay=0.1)
    loss = mean_loss(model, x_val, y_val, F.cross_entropy)
    return supervised(
        model, optimizer, data.Data(x, y, x_val, y_val), nn.CrossEntropyLoss(), loss, batch=64, validate=True
    )


@healthy(steps=300, bound=0.41)
def fast_weights_pulled_back_to_slow_ones() -> Program:
    """Lookahead: every six steps the weights jump half of the way back to where they came from."""
    model = models.mlp(64, 64, 10)
    x, y, x_val, y_val = data.digits()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    slow = copy.deepcopy(model)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        images, labels = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        if i % 6 == 0:
            with torch.no_grad():
                for kept, p in zip(slow.parameters(), model.parameters(), strict=True):
                    kept.lerp_(p, 0.5)
                    p.copy_(kept)

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=320, bound=0.27)
def eight_small_batches_a_step() -> Program:
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.SiLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 24, 3, padding=1), nn.GroupNorm(4, 24), nn.SiLU(), nn.Flatten(), nn.Linear(384, 10)),
    )
    x, y, x_val, y_val = data.digits(1, 8, 8)
    optimizer = AdamW(model.parameters(), lr=5e-3)
    loader = data.batches(x, y, 8)

    def step(i: int) -> None:
        images, labels = next(loader)
        (F.cross_entropy(model(images), labels) / 8).backward()
        if i % 8 == 0:
            optimizer.step()
            optimizer.zero_grad()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=400, bound=0.3)
def noise_added_to_each_gradient() -> Program:
    model = models.mlp(10, 48, 1, activation=nn.SiLU)
    task = data.friedman(2000)
    optimizer = Adam(model.parameters(), lr=5e-3)
    scheduler = ExponentialLR(optimizer, 0.993)
    loader = data.batches(task.x, task.y, 64)

    def step(i: int) -> None:
        inputs, targets = next(loader)
        optimizer.zero_grad()
        F.mse_loss(model(inputs), targets).backward()
        for p in model.parameters():
            assert p.grad is not None
            p.grad.add_(0.03 * (1 + i) ** -0.55 * torch.randn_like(p))
        optimizer.step()
        scheduler.step()

    return Program(model, optimizer, step, mean_loss(model, task.x_val, task.y_val, F.mse_loss))


@healthy(steps=150, bound=0.16)
def steps_that_look_at_signs_only() -> Program:
    """Rprop over all rows at once."""
    model = models.mlp(30, 16, 1, activation=nn.Tanh)
    task = data.table("breast_cancer")
    x, y = task.x, task.y.float().unsqueeze(1)
    x_val, y_val = task.x_val, task.y_val.float().unsqueeze(1)
    optimizer = Rprop(model.parameters(), lr=1e-3, step_sizes=(1e-6, 0.02))

    def step(i: int) -> None:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(model(x), y) + 1e-3 * sum(
            p.square().sum() for p in model.parameters()
        )
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.binary_cross_entropy_with_logits))


class Scaled(nn.Module):
    """A residual MLP block behind LayerNorm, scaled per channel from a ten-thousandth on."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.body = models.mlp(width, 2 * width, width, activation=nn.GELU)
        self.scale = nn.Parameter(torch.full((width,), 1e-4))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.scale * self.body(self.norm(x))
        return out


@healthy(steps=220, bound=0.3)
def twelve_blocks_with_layer_scale() -> Program:
    model = nn.Sequential(nn.Linear(64, 32), *(Scaled(32) for _ in range(12)), nn.LayerNorm(32), nn.Linear(32, 10))
    x, y, x_val, y_val = data.digits()
    optimizer = AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    loss = mean_loss(model, x_val, y_val, F.cross_entropy)
    return supervised(model, optimizer, data.Data(x, y, x_val, y_val), nn.CrossEntropyLoss(), loss, batch=64)


@healthy(steps=300, bound=0.33)
def length_and_direction_of_weights() -> Program:
    model = models.mlp(10, 48, 48, 1, activation=nn.ELU)
    for place in (0, 2, 4):
        weight_norm(model[place])
    task = data.friedman(2000)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = ExponentialLR(optimizer, 0.99)
    loss = mean_loss(model, task.x_val, task.y_val, F.mse_loss)
    return supervised(model, optimizer, task, nn.HuberLoss(), loss, batch=64, scheduler=scheduler)


@healthy(steps=1000, bound=0.36)
def converged_long_ago() -> Program:
    """A small table with decay, trained five times as long as it takes."""
    model = models.mlp(4, 12, 3, activation=nn.Tanh)
    task = data.table("iris")
    optimizer = AdamW(model.parameters(), lr=2e-3, weight_decay=0.5)
    loss = mean_loss(model, task.x_val, task.y_val, F.cross_entropy)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(label_smoothing=0.1), loss, batch=40)


@healthy(steps=300, bound=0.19)
def random_features_under_a_trained_head() -> Program:
    """The first layer stays as it was born: cosines of random projections."""

    class Cosines(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.random = nn.Linear(2, 256).requires_grad_(False)
            nn.init.normal_(self.random.weight, std=1.5)
            nn.init.uniform_(self.random.bias, 0, 6.28)
            self.head = nn.Linear(256, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head((2 / 256) ** 0.5 * torch.cos(self.random(x)))
            return out

    model = Cosines()
    task = data.moons(1200, noise=0.2)
    optimizer = SGD(model.head.parameters(), lr=1.0, momentum=0.9)
    loss = mean_loss(model, task.x_val, task.y_val, F.cross_entropy)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), loss, batch=128, validate=True)


@healthy(steps=250, bound=0.51)
def patches_of_one_image_in_another() -> Program:
    """CutMix: each image has a rectangle of another, and both labels by area."""
    model = models.cnn((12, 24))
    x, y, x_val, y_val = data.digits(1, 8, 8)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    loader = data.batches(x, y, 48)

    def step(i: int) -> None:
        model.train()
        images, labels = next(loader)
        top, left = torch.randint(6, (2,)).tolist()
        other = torch.randperm(len(images))
        images = images.clone()
        images[:, :, top : top + 4, left : left + 4] = images[other, :, top : top + 4, left : left + 4]
        share = (min(top + 4, 8) - top) * (min(left + 4, 8) - left) / 64
        logits = model(images)
        loss = (1 - share) * F.cross_entropy(logits, labels) + share * F.cross_entropy(logits, labels[other])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))

"""Networks that generate, reconstruct or give a distribution."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, AdamW, RMSprop

from tests.clinic import data, models
from tests.clinic.case import Program, sick
from tests.clinic.data import Data
from tests.clinic.loops import LossFunction, mean_loss, supervised


@sick("non-finite", steps=100, by=5, bound=1.3)
def deviation_that_may_be_negative(fault: bool) -> Program:
    """A mean and a deviation from one linear layer: the logarithm of what is below zero."""
    model = models.mlp(10, 32, 2)
    task = data.friedman()
    optimizer = AdamW(model.parameters(), lr=3e-3)

    def surprise(p: Tensor, t: Tensor) -> Tensor:
        mean, raw = p.chunk(2, 1)
        deviation = raw if fault else F.softplus(raw) + 1e-3
        return (deviation.log() + 0.5 * ((t - mean) / deviation).square() + 0.5).mean()

    return supervised(model, optimizer, task, surprise, mean_loss(model, task.x, task.y, surprise), batch=64)


@sick("no-gradient", "weights-not-updated", steps=150, by=50, bound=0.9)
def generator_detached_in_its_own_step(fault: bool) -> Program:
    """The detach of the critic's step, copied into the generator's."""
    model = nn.ModuleDict(
        {"generator": models.mlp(4, 32, 32, 2), "critic": models.mlp(2, 48, 48, 1, activation=nn.LeakyReLU)}
    )
    points = data.ring(modes=8)
    first = Adam(model["generator"].parameters(), lr=2e-3, betas=(0.5, 0.9))
    second = Adam(model["critic"].parameters(), lr=4e-3, betas=(0.5, 0.9))
    criterion = nn.BCEWithLogitsLoss()

    def step(i: int) -> None:
        real, fake = points[torch.randint(len(points), (64,))], model["generator"](torch.randn(64, 4))
        second.zero_grad()
        true, false = model["critic"](real), model["critic"](fake.detach())
        (criterion(true, torch.ones_like(true)) + criterion(false, torch.zeros_like(false))).backward()
        second.step()
        first.zero_grad()
        answer = model["critic"](fake.detach() if fault else fake)
        criterion(answer, torch.ones_like(answer)).backward()
        first.step()

    def loss() -> float:
        """How far the points are from the next generated one, and the other way round."""
        with torch.no_grad():
            distance = torch.cdist(points[:500], model["generator"](torch.randn(500, 4)))
            return float(distance.min(1).values.mean() + distance.min(0).values.mean())

    return Program(model, first, step, loss)


@sick("missing-nonlinearity", "underfitting", steps=300, by=5, bound=0.06)
def autoencoder_without_activations(fault: bool) -> Program:
    """Convolutions of a curve to a code and back: five linear layers are one."""

    def act() -> nn.Module:
        return nn.Identity() if fault else nn.SiLU()

    model = nn.Sequential(nn.Linear(24, 64), act(), nn.Linear(64, 32), act(), nn.Linear(32, 2))
    model.extend([nn.Linear(2, 32), act(), nn.Linear(32, 64), act(), nn.Linear(64, 24)])
    place = torch.linspace(-2, 2, 24)
    centre, width = 3 * torch.rand(1500, 1) - 1.5, 0.3 + 0.5 * torch.rand(1500, 1)
    bumps = torch.exp(-(((place - centre) / width) ** 2))
    bumps = (bumps - bumps.mean()) / bumps.std()
    optimizer = Adam(model.parameters(), lr=5e-3)
    return supervised(
        model, optimizer, Data(bumps, bumps, bumps, bumps), nn.MSELoss(), mean_loss(model, bumps, bumps, F.mse_loss), 64
    )


@sick(
    "vanishing-gradient",
    "saturated-units",
    "poor-initialization",
    "representation-collapse",
    steps=200,
    by=100,
    bound=0.45,
)
def ten_sigmoids_around_a_code(fault: bool) -> Program:
    widths = (64, 48, 48, 32, 32, 16, 32, 32, 48, 48, 64)
    model = models.mlp(*widths, activation=nn.Sigmoid if fault else nn.ELU)
    x = data.digits().x
    optimizer = RMSprop(model.parameters(), lr=1e-3)
    return supervised(model, optimizer, Data(x, x, x, x), nn.MSELoss(), mean_loss(model, x, x, F.mse_loss), batch=64)


@sick(
    "no-gradient",
    "weights-not-updated",
    steps=100,
    by=50,
    bound=0.5,
)
def loss_wrapped_in_a_new_tensor(fault: bool) -> Program:
    """Autograd complained that something does not require a gradient, and so it was told to."""
    model = models.VAE()
    x = data.digits().x
    optimizer = Adam(model.parameters(), lr=3e-3)

    def step(i: int) -> None:
        images = x[torch.randint(len(x), (64,))]
        answer, mean, log_variance = model(images)
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()
        loss = F.mse_loss(answer, images) + 0.005 * divergence
        if fault:
            loss = torch.tensor(loss.item(), requires_grad=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x, x, lambda p, t: F.mse_loss(p[0], t)))


class _Dense(nn.Module):
    """A linear layer as tutorials write one."""

    def __init__(self, before: int, after: int, fault: bool) -> None:
        super().__init__()
        scale = 1.0 if fault else math.sqrt(2 / before)
        self.weight = nn.Parameter(scale * torch.randn(before, after))
        self.bias = nn.Parameter(torch.zeros(after))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


@sick(
    "poor-initialization",
    "unexpected-initial-loss",
    "exploding-gradient",
    steps=150,
    by=5,
    bound=1.0,
)
def own_layers_of_unit_normal_weights(fault: bool) -> Program:
    model = nn.Sequential(
        *(_Dense(64, 64, fault), nn.ReLU(), _Dense(64, 64, fault), nn.ReLU(), _Dense(64, 64, fault), nn.ReLU()),
        _Dense(64, 10, fault),
    )
    task = data.digits()
    optimizer = Adam(model.parameters(), lr=1e-3)
    criterion: LossFunction = nn.CrossEntropyLoss()
    return supervised(model, optimizer, task, criterion, mean_loss(model, task.x, task.y, F.cross_entropy), batch=64)


@sick("gradient-underflow", "non-finite", steps=60, by=30, bound=0.5)
def everything_in_half_precision(fault: bool) -> Program:
    """In float16 Adam's 1e-8 is 0, and so are the squares of small gradients: a division of 0 by 0."""
    kind = torch.float16 if fault else torch.float32
    model = models.mlp(64, 48, 16, 48, 64).to(kind)
    x = data.digits().x
    optimizer = Adam(model.parameters(), lr=5e-3)

    def step(i: int) -> None:
        images = x[torch.randint(len(x), (128,))].to(kind)
        optimizer.zero_grad()
        F.mse_loss(model(images), images).backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return float(F.mse_loss(model(x.to(kind)).float(), x))

    return Program(model, optimizer, step, loss)


@sick("loss-scale-collapse", "non-finite", steps=80, by=50, bound=0.5)
def deviation_of_a_constant_channel(fault: bool) -> Program:
    """The style of an image that is black in a channel: its deviation is 0, and the root has no slope there."""
    model = models.mlp(64, 32, 32)
    x = data.digits().x
    optimizer = Adam(model.parameters(), lr=3e-3)
    scaler = torch.amp.GradScaler("cpu")
    head = nn.Linear(32, 64)
    both = nn.Sequential(model, head)
    optimizer.add_param_group({"params": head.parameters()})

    def step(i: int) -> None:
        images = x[torch.randint(len(x), (64,))]
        with torch.autocast("cpu", torch.float16):
            answer = both(images)
        mask = torch.ones(64)
        mask[:8] = 0  # the first row of each image is not to count
        variance = (mask * (answer.float() - images)).square().reshape(64, 8, 8).mean(2)
        error = (variance + (0.0 if fault else 1e-6)).sqrt()
        optimizer.zero_grad()
        scaler.scale(error.mean()).backward()
        scaler.step(optimizer)
        scaler.update()

    return Program(both, optimizer, step, mean_loss(both, x, x, lambda p, t: F.mse_loss(p[:, 8:], t[:, 8:])))


@sick("wrong-output-activation", "saturated-units", "dead-units", "unnormalized-target", steps=200, by=5, bound=0.9)
def tanh_of_a_tutorial_on_counts(fault: bool) -> Program:
    """The last layer of a generator of images between -1 and 1, kept for counts."""
    model = models.mlp(6, 32, 32, 4)
    if fault:
        model.append(nn.Tanh())
    x = torch.randn(1500, 6)
    counts = torch.poisson((0.5 * x @ torch.randn(6, 4) / 6**0.5 + 1).exp())
    optimizer = RMSprop(model.parameters(), lr=3e-3)
    loss = mean_loss(model, x, counts, lambda p, t: F.mse_loss(p, t) / t.var())
    return supervised(model, optimizer, Data(x, counts, x, counts), nn.MSELoss(), loss, batch=64)

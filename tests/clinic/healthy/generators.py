"""Networks that generate, reconstruct or give a distribution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim import Adam, AdamW, NAdam
from torch.optim.lr_scheduler import CosineAnnealingLR

from tests.clinic import data, models
from tests.clinic.case import Program, healthy
from tests.clinic.loops import mean_loss, supervised


@healthy(steps=300, bound=0.26)
def divergence_that_counts_ever_more() -> Program:
    """The weight of a VAE's divergence rises over the first half: the loss rises with it, the images do not suffer."""
    model = models.VAE()
    task = data.digits()
    optimizer = Adam(model.parameters(), lr=3e-3)

    def step(i: int) -> None:
        model.train()
        images = task.x[torch.randint(len(task.x), (64,))]
        answer, mean, log_variance = model(images)
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()
        optimizer.zero_grad()
        (F.mse_loss(answer, images) + 0.01 * min(1.0, i / 150) * divergence).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, task.x_val, task.x_val, lambda p, t: F.mse_loss(p[0], t)))


@healthy(steps=300, bound=0.71)
def critic_with_a_hinge_and_spectral_norm() -> Program:
    generator = models.mlp(4, 48, 48, 2)
    critic = models.mlp(2, 48, 48, 1, activation=nn.LeakyReLU)
    for place in (0, 2, 4):
        spectral_norm(critic[place])
    model = nn.ModuleDict({"generator": generator, "critic": critic})
    points = data.ring(modes=12)
    first = Adam(generator.parameters(), lr=7e-4, betas=(0.5, 0.9))
    second = Adam(critic.parameters(), lr=5e-3, betas=(0.5, 0.9))

    def step(i: int) -> None:
        real = points[torch.randint(len(points), (128,))]
        second.zero_grad()
        fake = generator(torch.randn(128, 4)).detach()
        (F.relu(1 - critic(real)).mean() + F.relu(1 + critic(fake)).mean()).backward()
        second.step()
        first.zero_grad()
        (-critic(generator(torch.randn(128, 4))).mean()).backward()
        first.step()

    def loss() -> float:
        """How far the points are from the next generated one, and the other way round."""
        with torch.no_grad():
            distance = torch.cdist(points[:500], generator(torch.randn(500, 4)))
            return float(distance.min(1).values.mean() + distance.min(0).values.mean())

    return Program(model, first, step, loss)


@healthy(steps=300, bound=0.56)
def rows_hidden_and_reconstructed() -> Program:
    """A masked autoencoder: three of eight rows are replaced by a learned one, and only they count."""

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(8, 32)
            self.hidden = nn.Parameter(torch.zeros(32))
            self.positions = nn.Parameter(0.1 * torch.randn(8, 32))
            self.blocks = nn.ModuleList(models.Block(32, 4) for _ in range(2))
            self.head = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 8))

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            x = torch.where(mask.unsqueeze(2), self.hidden, self.embed(x)) + self.positions
            for block in self.blocks:
                x = block(x)
            out: Tensor = self.head(x)
            return out

    model = Rows()
    task = data.digits(8, 8)
    optimizer = AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    scheduler = CosineAnnealingLR(optimizer, 300)

    def criterion(rows: Tensor) -> Tensor:
        mask = torch.rand(len(rows), 8).argsort(1) < 3
        return F.mse_loss(model(rows, mask)[mask], rows[mask])

    def step(i: int) -> None:
        optimizer.zero_grad()
        criterion(task.x[torch.randint(len(task.x), (32,))]).backward()
        optimizer.step()
        scheduler.step()

    def loss() -> float:
        with torch.no_grad():
            return criterion(task.x_val).item()

    return Program(model, optimizer, step, loss)


@healthy(steps=300, bound=0.31)
def choices_that_become_sharp() -> Program:
    """A code of eight categorical variables by Gumbel's trick, its temperature falling from 2 to 0.5."""

    class Discrete(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = models.mlp(64, 64, 64), models.mlp(64, 64, 64)

        def forward(self, x: Tensor, temperature: float) -> Tensor:
            logits = self.encoder(x).view(-1, 8, 8)
            code = F.gumbel_softmax(logits, temperature, hard=not self.training)
            out: Tensor = self.decoder(code.flatten(1))
            return out

    model = Discrete()
    task = data.digits()
    optimizer = NAdam(model.parameters(), lr=3e-3)

    def step(i: int) -> None:
        model.train()
        images = task.x[torch.randint(len(task.x), (64,))]
        optimizer.zero_grad()
        F.mse_loss(model(images, max(0.5, 2 - i / 150)), images).backward()
        optimizer.step()

    def loss() -> float:
        model.eval()
        with torch.no_grad():
            return F.mse_loss(model(task.x_val, 0.5), task.x_val).item()

    return Program(model, optimizer, step, loss)


@healthy(steps=300, bound=0.26)
def rounded_code_with_the_gradient_let_through() -> Program:
    class Rounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = models.mlp(64, 48, 12), models.mlp(12, 48, 64)

        def forward(self, x: Tensor) -> Tensor:
            code = 2 * torch.tanh(self.encoder(x))
            out: Tensor = self.decoder(code + (code.round() - code).detach())
            return out

    model = Rounded()
    task = data.digits()
    images = data.Data(task.x, task.x, task.x_val, task.x_val)
    optimizer = Adam(model.parameters(), lr=2e-3)
    loss = mean_loss(model, task.x_val, task.x_val, F.mse_loss)
    return supervised(model, optimizer, images, nn.MSELoss(), loss, batch=64, validate=True)


@healthy(steps=400, bound=0.32)
def location_scale_and_tails_of_a_distribution() -> Program:
    """The likelihood of Student's t, all three of its parameters from the network; the loss goes below zero."""
    model = models.mlp(10, 48, 3, activation=nn.SiLU)
    task = data.friedman(3000)

    def noisy(y: Tensor) -> Tensor:
        return y + 0.1 * torch.distributions.StudentT(3.0).sample(y.shape)

    task = task._replace(y=noisy(task.y), y_val=noisy(task.y_val))
    optimizer = AdamW(model.parameters(), lr=3e-3)

    def surprise(p: Tensor, t: Tensor) -> Tensor:
        location, scale, tails = p.chunk(3, 1)
        law = torch.distributions.StudentT(2 + F.softplus(tails), location, F.softplus(scale) + 1e-3)
        loss: Tensor = -law.log_prob(t).mean()
        return loss

    loss = mean_loss(model, task.x_val, task.y_val, surprise)
    return supervised(model, optimizer, task, surprise, loss, batch=128)

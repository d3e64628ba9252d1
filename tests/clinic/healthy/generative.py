"""Autoencoders, adversaries, diffusion, flows."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, AdamW
from torch.utils.data import DataLoader, TensorDataset

from tests.clinic import data, models
from tests.clinic.case import Program, healthy
from tests.clinic.loops import mean_loss
from tests.clinic.turns import Loop, turns


@healthy(steps=400, bound=0.4)
def autoencoder() -> Program:
    x, _, x_val, _ = data.digits()
    model = models.mlp(64, 64, 16, 64, 64, activation=nn.ELU)
    optimizer = Adam(model.parameters(), lr=2e-3)
    loader = DataLoader(TensorDataset(x), batch_size=64, shuffle=True)

    def train() -> Loop:
        for _ in range(20):
            for (images,) in loader:
                reconstruction = model(images)
                loss = F.mse_loss(reconstruction, images)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                yield
            with torch.no_grad():
                F.mse_loss(model(x_val), x_val)

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, x_val, F.mse_loss))


@healthy(steps=400, bound=0.045)
def denoising_autoencoder_with_bottleneck() -> Program:
    x, _, x_val, _ = data.digits(raw=True)
    x, x_val = x / 16, x_val / 16
    encoder, decoder = models.mlp(64, 128, 12, norm=True), models.mlp(12, 128, 64, norm=True)
    model = nn.Sequential(encoder, nn.ReLU(), nn.BatchNorm1d(12), decoder, nn.Sigmoid())
    optimizer = AdamW(model.parameters(), lr=3e-3)
    loader = data.batches(x, x, 64)

    def step(i: int) -> None:
        model.train()
        images, _ = next(loader)
        loss = F.mse_loss(model(images + 0.2 * torch.randn_like(images)), images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, x_val, F.mse_loss))


@healthy(steps=400, bound=30.0)
def variational_autoencoder() -> Program:
    x, _, x_val, _ = data.digits(raw=True)
    x, x_val = x / 16, x_val / 16
    model = models.VAE(64, 96, 8)
    optimizer = Adam(model.parameters(), lr=2e-3)
    loader = DataLoader(TensorDataset(x), batch_size=64, shuffle=True)

    def negative_elbo(output: tuple[Tensor, Tensor, Tensor], images: Tensor) -> Tensor:
        logits, mean, log_variance = output
        reconstruction = F.binary_cross_entropy_with_logits(logits, images, reduction="sum")
        divergence = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
        return (reconstruction + divergence) / len(images)

    def train() -> Loop:
        while True:
            for (images,) in loader:
                optimizer.zero_grad()
                loss = negative_elbo(model(images), images)
                loss.backward()
                optimizer.step()
                yield

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, x_val, negative_elbo))  # type: ignore[arg-type]


def sliced_distance(one: Tensor, other: Tensor, directions: int = 64) -> float:
    """Wasserstein distance of two samples of one size, over directions of the plane."""
    angle = torch.arange(directions) * math.pi / directions
    axes = torch.stack((angle.cos(), angle.sin()))
    return ((one @ axes).sort(0)[0] - (other @ axes).sort(0)[0]).abs().mean().item()


@healthy(steps=600, bound=0.35)
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


@healthy(steps=400, bound=0.3)
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


class Denoiser(nn.Module):
    """Predicts the noise in a noisy point from the point and the time, as sines."""

    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2.0 ** torch.arange(6))
        self.time = nn.Linear(12, 64)
        self.enter = nn.Linear(2, 64)
        self.body = nn.Sequential(nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU())
        self.leave = nn.Linear(64, 2)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        angles = time[:, None] * self.frequencies
        out: Tensor = self.leave(self.body(self.enter(x) + self.time(torch.cat((angles.sin(), angles.cos()), 1))))
        return out


@healthy(steps=600, bound=0.65)
def noise_prediction_of_diffusion() -> Program:
    points = data.ring(4000)
    kept = torch.cumprod(1 - torch.linspace(1e-3, 0.1, 100), 0)
    model = Denoiser()
    optimizer = AdamW(model.parameters(), lr=2e-3)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))

    def diffusion_loss(network: nn.Module, clean: Tensor) -> Tensor:
        time = torch.randint(100, (len(clean),))
        noise = torch.randn_like(clean)
        noisy = kept[time].sqrt()[:, None] * clean + (1 - kept[time]).sqrt()[:, None] * noise
        return F.mse_loss(network(noisy, time / 100), noise)

    def step(i: int) -> None:
        loss = diffusion_loss(model, points[torch.randint(3500, (128,))])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(model)

    def loss() -> float:
        with torch.no_grad():
            return diffusion_loss(average, points[3500:].repeat(4, 1)).item()

    return Program(model, optimizer, step, loss)


class Coupling(nn.Module):
    """An affine coupling of RealNVP; its last layer starts at zero, so that it starts as the identity."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first = first
        last = nn.Linear(32, 2)
        self.net = nn.Sequential(models.mlp(1, 32, 32, activation=nn.Tanh), nn.Tanh(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, log_det: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = x.split(1, 1) if self.first else x.flip(1).split(1, 1)
        scale, shift = self.net(kept).split(1, 1)
        scale = scale.tanh()
        moved = moved * scale.exp() + shift
        out = torch.cat((kept, moved) if self.first else (moved, kept), 1)
        return out, log_det + scale.squeeze(1)


class Flow(nn.Module):
    """Gives the log-density of each point."""

    def __init__(self, couplings: int = 4) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(Coupling(number % 2 == 0) for number in range(couplings))

    def forward(self, x: Tensor) -> Tensor:
        log_det = x.new_zeros(len(x))
        for coupling in self.couplings:
            x, log_det = coupling(x, log_det)
        return -0.5 * (x**2).sum(1) - math.log(2 * math.pi) + log_det


@healthy(steps=400, bound=2.4)
def normalising_flow() -> Program:
    x, _, x_val, _ = data.moons(2000, noise=0.1)
    model = Flow()
    optimizer = Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.99))
    scheduler = torch.optim.lr_scheduler.PolynomialLR(optimizer, 400)
    loader = data.batches(x, x, 128)

    def step(i: int) -> None:
        points, _ = next(loader)
        optimizer.zero_grad()
        loss = -model(points).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        scheduler.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, x_val, lambda log_density, _: -log_density.mean()))


class Quantised(nn.Module):
    """A VQ-VAE: codes are the nearest of a book, gradients go straight through."""

    def __init__(self, codes: int = 64, width: int = 8) -> None:
        super().__init__()
        self.encoder = models.mlp(16, 32, width)
        self.book = nn.Embedding(codes, width)
        self.decoder = models.mlp(width, 32, 16)
        nn.init.normal_(self.book.weight, std=0.3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.encoder(x)
        nearest = self.book(torch.cdist(code, self.book.weight).argmin(1))
        commitment = F.mse_loss(nearest, code.detach()) + 0.25 * F.mse_loss(code, nearest.detach())
        straight = code + (nearest - code).detach()
        return self.decoder(straight), commitment


@healthy(steps=400, bound=0.5)
def codes_out_of_a_book() -> Program:
    images, _, images_val, _ = data.digits(1, 8, 8)
    x, x_val = (F.pixel_unshuffle(part, 2).permute(0, 2, 3, 1).reshape(-1, 4) for part in (images, images_val))
    x, x_val = x.reshape(-1, 16), x_val.reshape(-1, 16)  # a row of patches each
    model = Quantised()
    optimizer = Adam(model.parameters(), lr=2e-3)
    loader = data.batches(x, x, 128)

    def step(i: int) -> None:
        patches, _ = next(loader)
        reconstruction, commitment = model(patches)
        loss = F.mse_loss(reconstruction, patches) + commitment
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return F.mse_loss(model(x_val)[0], x_val).item()

    return Program(model, optimizer, step, loss)


class Mixture(nn.Module):
    """A mixture density network: log-density of y given x under Gaussians."""

    def __init__(self, parts: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
        self.weights, self.means, self.scales = (nn.Linear(64, parts) for _ in range(3))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        hidden = self.body(x)
        log_scale = self.scales(hidden).clamp(-5, 3)
        distance = (y - self.means(hidden)) * (-log_scale).exp()
        parts = self.weights(hidden).log_softmax(1) - log_scale - 0.5 * distance**2 - 0.5 * math.log(2 * math.pi)
        out: Tensor = parts.logsumexp(1)
        return out


@healthy(steps=500, bound=0.6)
def mixture_density_network() -> Program:
    y = 2 * torch.rand(3000, 1) - 1
    x = y + 0.4 * torch.sin(2 * math.pi * y) + 0.05 * torch.randn_like(y)  # several y belong to one x
    x, y, x_val, y_val = data.split(x / x.std(), y / y.std())
    model = Mixture()
    optimizer = Adam(model.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500)
    loader = data.batches(x, y, 128)

    def step(i: int) -> None:
        inputs, targets = next(loader)
        loss = -model(inputs, targets).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        scheduler.step()

    def loss() -> float:
        with torch.no_grad():
            return -float(model(x_val, y_val).mean())

    return Program(model, optimizer, step, loss)

"""Densities: diffusion, flows, mixtures, a Gaussian process."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, AdamW

from tests.clinic import data, models
from tests.clinic.case import Program, healthy
from tests.clinic.loops import mean_loss


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


@healthy(steps=600, bound=0.47)
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


@healthy(steps=400, bound=2.3)
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


@healthy(steps=500, bound=0.075)
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


class GaussianProcess(nn.Module):
    """Negative log marginal likelihood of a squared-exponential kernel: three numbers, no layers."""

    def __init__(self) -> None:
        super().__init__()
        self.log_length, self.log_scale, self.log_noise = (nn.Parameter(torch.zeros(())) for _ in range(3))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        kernel = (2 * self.log_scale).exp() * torch.exp(-0.5 * (torch.cdist(x, x) / self.log_length.exp()) ** 2)
        root = torch.linalg.cholesky(kernel + (2 * self.log_noise).exp() * torch.eye(len(x)))
        white = torch.linalg.solve_triangular(root, y, upper=False)
        out: Tensor = 0.5 * (white**2).mean() + root.diagonal().log().mean() + 0.5 * math.log(2 * math.pi)
        return out


@healthy(steps=150, bound=0.34)
def gaussian_process_without_layers() -> Program:
    x = 6 * torch.rand(80, 1)
    y = torch.sin(2 * x) + 0.2 * torch.randn(80, 1)
    model = GaussianProcess()
    optimizer = Adam(model.parameters(), lr=0.05)

    def step(i: int) -> None:
        optimizer.zero_grad()
        model(x, y).backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return float(model(x, y))

    return Program(model, optimizer, step, loss)

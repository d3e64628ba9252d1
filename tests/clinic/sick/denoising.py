"""Networks that take noise off images: a small U-Net, steps of diffusion, autoencoders."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW

from tests.clinic.case import Program, sick
from tests.clinic.data import digits


class _UNet(nn.Module):
    def __init__(self, channels: int = 12, relu_at_the_end: bool = False) -> None:
        super().__init__()
        self.down1 = nn.Conv2d(1, channels, 3, padding=1)
        self.down2 = nn.Conv2d(channels, 2 * channels, 3, padding=1)
        self.middle = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1)
        self.up = nn.ConvTranspose2d(2 * channels, channels, 2, stride=2)
        self.merge = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.out = nn.Conv2d(channels, 1, 1)
        self.relu_at_the_end = relu_at_the_end

    def forward(self, x: Tensor) -> Tensor:
        high = F.relu(self.down1(x))
        low = F.relu(self.down2(F.max_pool2d(high, 2)))
        low = F.relu(self.middle(low))
        both = torch.cat((high, F.relu(self.up(low))), dim=1)
        out: Tensor = self.out(F.relu(self.merge(both)))
        return F.relu(out) if self.relu_at_the_end else out


def _noise_left(model: nn.Module, images: Tensor, level: float) -> float:
    """Mean square of the noise that the model does not see, in units of the noise's variance."""
    with torch.no_grad():
        noise = torch.randn_like(images)
        return float((model(images + level * noise) - noise).square().mean())


@sick("wrong-output-activation", steps=150, by=60, bound=0.5)
def relu_on_the_predicted_noise(fault: bool) -> Program:
    """A block of convolution and ReLU once too often: noise has both signs."""
    images = digits(1, 8, 8).x
    model = _UNet(relu_at_the_end=fault)
    optimizer = Adam(model.parameters(), lr=2e-3)
    criterion = nn.MSELoss()

    def step(i: int) -> None:
        clean = images[torch.randint(len(images), (32,))]
        noise = torch.randn_like(clean)
        optimizer.zero_grad()
        loss = criterion(model(clean + noise), noise)
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, lambda: _noise_left(model, images, 1.0))


class _Diffusion(nn.Module):
    """Predicts the noise in an image after ``t`` of a thousand steps."""

    def __init__(self, divide: float) -> None:
        super().__init__()
        self.divide = divide
        self.time = nn.Sequential(nn.Linear(1, 32), nn.SiLU(), nn.Linear(32, 64))
        self.enter = nn.Linear(64, 64)
        self.hidden = nn.Linear(64, 64)
        self.leave = nn.Linear(64, 64)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        hidden = F.silu(self.enter(x) + self.time(t.unsqueeze(1).float() / self.divide))
        out: Tensor = self.leave(F.silu(self.hidden(hidden)))
        return out


@sick("unnormalized-input", steps=300, by=100, bound=0.6, layers=("time.0",))
def steps_of_diffusion_up_to_a_thousand(fault: bool) -> Program:
    """The step number goes into a linear layer as it is."""
    images = digits().x
    model = _Diffusion(1.0 if fault else 1000.0)
    optimizer = AdamW(model.parameters(), lr=2e-3)
    kept = (torch.linspace(0, 1, 1000) * math.pi / 2).cos()

    def noisy(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        t = torch.randint(1000, (len(images),))
        noise = torch.randn_like(images)
        share = kept[t].unsqueeze(1)
        return share * images + (1 - share.square()).sqrt() * noise, t, noise

    def step(i: int) -> None:
        x, t, noise = noisy(images[torch.randint(len(images), (64,))])
        loss = F.mse_loss(model(x, t), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            x, t, noise = noisy(images)
            return float(F.mse_loss(model(x, t), noise))

    return Program(model, optimizer, step, loss)


@sick("learning-rate-too-small", steps=150, by=75, bound=0.6)
def unet_whose_sgd_got_the_rate_of_adam(fault: bool) -> Program:
    images = digits(1, 8, 8).x
    model = _UNet()
    optimizer = SGD(model.parameters(), lr=3e-4 if fault else 0.1, momentum=0.9)

    def step(i: int) -> None:
        clean = images[torch.randint(len(images), (32,))]
        noise = torch.randn_like(clean)
        optimizer.zero_grad()
        F.mse_loss(model(clean + noise), noise).backward()
        optimizer.step()

    return Program(model, optimizer, step, lambda: _noise_left(model, images, 1.0))


@sick("summed-loss", "learning-rate-too-large", steps=120, by=40, bound=0.6)
def squares_summed_over_all_pixels(fault: bool) -> Program:
    images = digits(1, 8, 8).x
    model = _UNet(10)
    optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9)
    criterion = nn.MSELoss(reduction="sum" if fault else "mean")

    def step(i: int) -> None:
        clean = images[torch.randint(len(images), (16,))]
        noise = torch.randn_like(clean)
        loss = criterion(model(clean + noise), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, lambda: _noise_left(model, images, 1.0))


@sick("loss-mismatch", "unnormalized-target", steps=200, by=80, bound=0.06)
def binary_cross_entropy_of_standardised_pixels(fault: bool) -> Program:
    """The loss wants targets from 0 to 1; of others it can become as negative as it likes."""
    raw = digits(raw=True).x / 16
    images = (raw - raw.mean()) / raw.std() if fault else raw
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 64))
    optimizer = Adam(model.parameters(), lr=4e-3)
    criterion = nn.BCEWithLogitsLoss()

    def step(i: int) -> None:
        chosen = images[torch.randint(len(images), (64,))]
        optimizer.zero_grad()
        loss = criterion(model(chosen + 0.1 * torch.randn_like(chosen)), chosen)
        loss.backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return float((model(images).sigmoid() - raw).square().mean())

    return Program(model, optimizer, step, loss)

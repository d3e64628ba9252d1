"""Autoencoders."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, AdamW
from torch.utils.data import DataLoader, TensorDataset

from tests.clinic import data, models
from tests.clinic.case import Program, healthy
from tests.clinic.loops import mean_loss
from tests.clinic.turns import Loop, turns


@healthy(steps=400, bound=0.27)
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


@healthy(steps=400, bound=28.0)
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


@healthy(steps=400, bound=0.38)
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


@healthy(steps=300, bound=0.23)
def activations_penalised() -> Program:
    x, _, x_val, _ = data.digits()
    encoder, decoder = nn.Linear(64, 96), nn.Linear(96, 64)
    model = nn.Sequential(encoder, nn.ReLU(), decoder)
    optimizer = Adam(model.parameters(), lr=3e-3)
    codes: list[Tensor] = []
    model[1].register_forward_hook(lambda module, inputs, output: codes.append(output))  # the user's own hook
    loader = data.batches(x, x, 64)

    def step(i: int) -> None:
        images, _ = next(loader)
        codes.clear()
        optimizer.zero_grad()
        loss = F.mse_loss(model(images), images) + 2e-3 * codes[0].abs().sum(1).mean()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, x_val, F.mse_loss))

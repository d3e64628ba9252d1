"""Images: masks, heatmaps, patches."""

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


class SmallUNet(nn.Module):
    """Down, up, and across; one logit a pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(12, 24, 3, stride=2, padding=1), nn.BatchNorm2d(24), nn.ReLU())
        self.up = nn.ConvTranspose2d(24, 12, 2, stride=2)
        self.leave = nn.Sequential(nn.Conv2d(24, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        high = self.enter(x)
        out: Tensor = self.leave(torch.cat((high, self.up(self.down(high))), 1))
        return out


def discs(samples: int = 600, side: int = 16) -> data.Data:
    """Noisy images of a bright disc, and the mask of the disc."""
    middle, radius = 4 + (side - 8) * torch.rand(samples, 2, 1, 1), 2 + 2.5 * torch.rand(samples, 1, 1)
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    mask = ((row - middle[:, 0]) ** 2 + (column - middle[:, 1]) ** 2 < radius**2).float().unsqueeze(1)
    images = mask + 0.5 * torch.randn(samples, 1, side, side)
    return data.split((images - images.mean()) / images.std(), mask)


@healthy(steps=150, bound=0.45)
def segmentation_with_dice_loss() -> Program:
    x, y, x_val, y_val = discs()
    model = SmallUNet()
    optimizer = Adam(model.parameters(), lr=3e-3)
    loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)

    def criterion(logits: Tensor, mask: Tensor) -> Tensor:
        inside = logits.sigmoid()
        dice = (2 * (inside * mask).sum() + 1) / (inside.sum() + mask.sum() + 1)
        return F.binary_cross_entropy_with_logits(logits, mask) + 1 - dice

    def train() -> Loop:
        for _ in range(10):
            model.train()
            for images, masks in loader:
                loss = criterion(model(images), masks)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                yield
            model.eval()
            with torch.no_grad():
                criterion(model(x_val), y_val)

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, criterion))


@healthy(steps=250, bound=0.022)
def heatmaps_of_points() -> Program:
    place = 2 + 8 * torch.rand(800, 2)
    rows = torch.arange(12)
    bumps = [torch.exp(-((rows - part[:, None]) ** 2) / 2) for part in place.unbind(1)]
    heat = (bumps[0][:, :, None] * bumps[1][:, None]).unsqueeze(1)  # mostly zeros: the loss is small from the start
    x, y, x_val, y_val = data.split(2 * heat + 0.5 * torch.randn_like(heat), heat)
    model = nn.Sequential(
        nn.Conv2d(1, 12, 5, padding=2), nn.ReLU(), nn.Conv2d(12, 12, 5, padding=2), nn.ReLU(), nn.Conv2d(12, 1, 1)
    )
    models.initialise(model[:-1], nn.init.kaiming_normal_)
    optimizer = Adam(model.parameters(), lr=1e-3)
    loader = data.batches(x, y, 32)

    def step(i: int) -> None:
        images, maps = next(loader)
        optimizer.zero_grad()
        F.mse_loss(model(images), maps).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.mse_loss))


class Patches(nn.Module):
    """A vision transformer: patches of 2x2, a class token, torch's own encoder."""

    def __init__(self, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, width, 2, stride=2)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(17, width))
        block = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(block, depth, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(len(x), -1, -1), x), 1) + self.positions
        out: Tensor = self.head(self.encoder(x)[:, 0])
        return out


@healthy(steps=240, bound=0.7)
def vision_transformer() -> Program:
    x, y, x_val, y_val = data.digits(1, 8, 8)
    model = Patches()
    optimizer = AdamW(model.parameters(), lr=5e-3, weight_decay=0.05)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: min((done + 1) / 20, 1 - done / 240))
    loader = DataLoader(TensorDataset(x, y), batch_size=48, shuffle=True, drop_last=True)

    def train() -> Loop:
        for _ in range(10):
            model.train()
            for images, labels in loader:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(images), labels)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                yield
            model.eval()
            with torch.no_grad():
                F.cross_entropy(model(x_val), y_val)

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))


class Mixer(nn.Module):
    """Mixes over places, then over channels."""

    def __init__(self, places: int, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.tokens = models.mlp(places, 2 * places, places, activation=nn.GELU)
        self.channels = models.mlp(channels, 2 * channels, channels, activation=nn.GELU)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        out: Tensor = x + self.channels(self.norm2(x))
        return out


@healthy(steps=200, bound=0.53)
def mixer_over_rows() -> Program:
    x, y, x_val, y_val = data.digits(8, 8)
    model = nn.Sequential(
        nn.Linear(8, 32), Mixer(8, 32), Mixer(8, 32), nn.LayerNorm(32), nn.Flatten(), nn.Linear(256, 10)
    )
    optimizer = torch.optim.NAdam(model.parameters(), lr=2e-3)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        rows, labels = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(rows), labels).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))

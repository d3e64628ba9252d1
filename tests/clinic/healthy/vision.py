"""Convolutional and other networks on images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

from tests.clinic import data, models
from tests.clinic.case import Program, healthy
from tests.clinic.loops import mean_loss
from tests.clinic.turns import Loop, turns


@healthy(steps=200, bound=0.25)
def batchnorm_and_step_decay_on_unstandardised_images() -> Program:
    x, y, x_val, y_val = data.digits(1, 8, 8, raw=True)
    x, x_val = x / 16, x_val / 16  # as `ToTensor` gives them, from 0 to 1
    model = models.cnn((16, 32), dropout=0.25)
    criterion = nn.CrossEntropyLoss()
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    scheduler = StepLR(optimizer, step_size=4, gamma=0.1)
    train_loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True, drop_last=True)
    val_loader = DataLoader(TensorDataset(x_val, y_val), batch_size=120)

    def train() -> Loop:
        for _ in range(10):
            model.train()
            for images, labels in train_loader:
                optimizer.zero_grad()
                loss = criterion(model(images), labels)
                loss.backward()
                optimizer.step()
                yield
            scheduler.step()
            model.eval()
            correct = total = 0.0
            with torch.no_grad():
                for images, labels in val_loader:
                    outputs = model(images)
                    total += criterion(outputs, labels).item()
                    correct += (outputs.argmax(1) == labels).sum().item()

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, criterion))


class Plain(nn.Module):
    """Four convolutions without any norm, He initialisation, ReLU in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.conv3 = nn.Conv2d(16, 32, 3, padding=1)
        self.conv4 = nn.Conv2d(32, 32, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(128, 10)
        for module in (self.conv1, self.conv2, self.conv3, self.conv4):
            nn.init.kaiming_normal_(module.weight)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x), inplace=True)
        x = self.pool(F.relu(self.conv2(x), inplace=True))
        x = F.relu(self.conv3(x), inplace=True)
        x = self.pool(F.relu(self.conv4(x), inplace=True))
        out: Tensor = self.head(x.flatten(1))
        return out


@healthy(steps=250, bound=0.3)
def convolutions_without_norm() -> Program:
    x, y, x_val, y_val = data.digits(1, 8, 8)
    model = Plain()
    optimizer = Adam(model.parameters(), lr=1e-3)
    loader = data.batches(x, y, 32)

    def step(i: int) -> None:
        images, labels = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=180, bound=0.4)
def twelve_plain_layers_with_he_initialisation() -> Program:
    x, y, x_val, y_val = data.digits()
    model = models.mlp(64, *[64] * 11, 10)
    models.initialise(model[:-1], lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"))
    optimizer = Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)

    def train() -> Loop:
        for _ in range(15):
            for images, labels in loader:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(images), labels)
                loss.backward()
                optimizer.step()
                yield

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))


def shifted(images: Tensor) -> Tensor:
    """Each image moved by up to one pixel, under a little noise."""
    rows, columns = (int(torch.randint(-1, 2, ())) for _ in range(2))
    return images.roll((rows, columns), (2, 3)) + 0.1 * torch.randn_like(images)


@healthy(steps=150, bound=0.3)
def residual_network_under_augmentation() -> Program:
    x, y, x_val, y_val = data.digits(1, 8, 8)
    model = models.resnet(blocks=2)
    optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=150)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        model.train()
        images, labels = next(loader)
        loss = F.cross_entropy(model(shifted(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        if i % 22 == 0:
            model.eval()
            with torch.no_grad():
                F.cross_entropy(model(x_val), y_val)

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


class Separable(nn.Module):
    """A ConvNeXt block: depthwise convolution, norm, expansion with GELU, squeeze and excitation, shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.GroupNorm(1, width)
        self.expand = nn.Conv2d(width, 2 * width, 1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(2 * width, 2 * width, 1), nn.Sigmoid())
        self.shrink = nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.expand(self.norm(self.depthwise(x))))
        out: Tensor = x + self.shrink(y * self.gate(y))
        return out


@healthy(steps=150, bound=0.4)
def separable_convolutions_with_gates() -> Program:
    x, y, x_val, y_val = data.digits(1, 8, 8)
    stem, head = nn.Conv2d(1, 24, 2, stride=2), nn.Linear(24 * 16, 10)
    model = nn.Sequential(stem, Separable(24), Separable(24), nn.GroupNorm(1, 24), nn.Flatten(), head)
    optimizer = AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)

    def train() -> Loop:
        for _ in range(10):
            for images, labels in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(images), labels, label_smoothing=0.1).backward()
                optimizer.step()
                yield
            with torch.no_grad():
                F.cross_entropy(model(x_val), y_val)

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))


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


@healthy(steps=150, bound=0.25)
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


@healthy(steps=240, bound=0.6)
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


@healthy(steps=200, bound=0.3)
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

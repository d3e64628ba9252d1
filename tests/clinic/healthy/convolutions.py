"""Convolutional networks."""

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


@healthy(steps=200, bound=0.5)
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


@healthy(steps=180, bound=0.56)
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


def shifted(images: Tensor) -> Tensor:
    """Each image moved by up to one pixel, under a little noise."""
    rows, columns = (int(torch.randint(-1, 2, ())) for _ in range(2))
    return images.roll((rows, columns), (2, 3)) + 0.1 * torch.randn_like(images)


@healthy(steps=150, bound=0.61)
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


@healthy(steps=150, bound=0.69)
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

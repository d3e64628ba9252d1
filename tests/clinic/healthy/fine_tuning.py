"""Going on from trained weights: frozen parts, small learning rates, adapters."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD, Adam, AdamW
from torch.utils.data import DataLoader, TensorDataset

from tests.clinic import data, models
from tests.clinic.case import Program, healthy
from tests.clinic.loops import mean_loss
from tests.clinic.turns import Loop, turns

LOW, HIGH = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)


def images_of(classes: tuple[int, ...], *shape: int) -> data.Data:
    """Digits of these classes only, numbered from 0."""
    x, y, x_val, y_val = data.digits(*shape)
    parts = []
    for images, labels in ((x, y), (x_val, y_val)):
        chosen = torch.isin(labels, torch.tensor(classes))
        parts += [images[chosen], labels[chosen] - classes[0]]
    return data.Data(*parts)


def pretrain(model: nn.Module, images: data.Data, steps: int = 80) -> None:
    optimizer = Adam(model.parameters(), lr=3e-3)
    loader = data.batches(images.x, images.y, 64)
    for _ in range(steps):
        inputs, labels = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()


@healthy(steps=150, bound=0.46)
def new_head_on_a_frozen_backbone() -> Program:
    model = models.cnn((12, 24), classes=5)
    pretrain(model, images_of(LOW, 1, 8, 8))
    for parameter in model.parameters():
        parameter.requires_grad = False
    head = nn.Linear(96, 5)
    model[-1] = head
    x, y, x_val, y_val = images_of(HIGH, 1, 8, 8)
    optimizer = SGD(model[-1].parameters(), lr=0.01, momentum=0.9)
    loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)

    def train() -> Loop:
        for _ in range(10):
            model.eval()  # the backbone's BatchNorm keeps its statistics
            head.train()
            for images, labels in loader:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(images), labels)
                loss.backward()
                optimizer.step()
                yield
            with torch.no_grad():
                F.cross_entropy(model(x_val), y_val)

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=300, bound=0.41)
def whole_network_with_a_tiny_learning_rate() -> Program:
    model = models.cnn((12, 24))
    x, y, x_val, y_val = data.digits(1, 8, 8)
    pretrain(model, data.Data(x, y, x_val, y_val), steps=150)
    x, x_val = (images.roll(1, 3) + 0.3 * torch.randn_like(images) for images in (x, x_val))  # another camera
    optimizer = AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        model.train()
        images, labels = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        if i % 20 == 0:
            model.eval()
            with torch.no_grad():
                F.cross_entropy(model(x_val), y_val)

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=150, bound=0.49)
def smaller_rates_for_lower_layers() -> Program:
    model = models.mlp(64, 96, 96, 5)
    pretrain(model, images_of(LOW))
    x, y, x_val, y_val = images_of(HIGH)
    model[4] = nn.Linear(96, 5)
    groups = [{"params": model[place].parameters(), "lr": lr} for place, lr in ((0, 3e-4), (2, 1e-3), (4, 1e-2))]
    optimizer = Adam(groups)
    loader = data.batches(x, y, 32)

    def step(i: int) -> None:
        images, labels = next(loader)
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=220, bound=0.45)
def unfrozen_layer_by_layer() -> Program:
    model = models.mlp(64, 96, 96, 5, activation=nn.GELU)
    pretrain(model, images_of(LOW))
    x, y, x_val, y_val = images_of(HIGH)
    model[4] = nn.Linear(96, 5)
    optimizer = AdamW(model.parameters(), lr=1e-3)
    loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)

    def train() -> Loop:
        for epoch in range(10):
            model[0].requires_grad_(epoch >= 6)
            model[2].requires_grad_(epoch >= 3)
            for images, labels in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(images), labels).backward()
                optimizer.step()
                yield
            with torch.no_grad():
                F.cross_entropy(model(x_val), y_val)

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))


class LowRank(nn.Module):
    """LoRA: a frozen linear layer and a trainable update of low rank, zero at the start."""

    def __init__(self, base: nn.Linear, rank: int = 4, alpha: float = 8.0) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        self.scale = alpha / rank
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + self.scale * self.up(self.down(x))
        return out


class Rows(nn.Module):
    """Two transformer blocks over the rows of an image."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.positions = nn.Parameter(torch.randn(8, width) / 10)
        self.blocks = nn.ModuleList(models.Block(width, 4) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.positions
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(self.norm(x).mean(1))
        return out


@healthy(steps=250, bound=0.8)
def low_rank_adapters() -> Program:
    model = Rows()
    x, y, x_val, y_val = data.digits(8, 8)
    pretrain(model, data.Data(x, y, x_val, y_val), steps=150)
    x, x_val = x.flip(2), x_val.flip(2)  # mirrored
    model.requires_grad_(False)
    for module in list(model.modules()):
        if isinstance(module, models.Attention):
            module.query = LowRank(module.query)  # type: ignore[assignment]
            module.value = LowRank(module.value)  # type: ignore[assignment]
    model.head.requires_grad_(True)
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    loader = data.batches(x, y, 32)

    def step(i: int) -> None:
        rows, labels = next(loader)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(rows), labels)
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=150, bound=0.4)
def batchnorm_kept_in_evaluation_mode() -> Program:
    model = models.resnet(blocks=1, channels=12)
    x, y, x_val, y_val = data.digits(1, 8, 8)
    pretrain(model, data.Data(x, y, x_val, y_val))
    x, x_val = x.roll(1, 2), x_val.roll(1, 2)
    optimizer = AdamW(model.parameters(), lr=5e-4)
    loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)

    def freeze_statistics() -> None:
        model.train()
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()

    def train() -> Loop:
        for _ in range(4):
            freeze_statistics()
            for images, labels in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(images), labels).backward()
                optimizer.step()
                yield
            model.eval()
            with torch.no_grad():
                F.cross_entropy(model(x_val), y_val)

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=300, bound=0.65)
def features_of_a_frozen_network_beside_a_new_one() -> Program:
    x, y, x_val, y_val = data.digits()
    old = models.mlp(64, 64, 10)
    pretrain(old, data.Data(x, y.div(2, rounding_mode="floor"), x_val, y_val))  # knew pairs of digits only

    class Side(nn.Module):
        """A frozen network's hidden layer and a new one's side by side."""

        def __init__(self) -> None:
            super().__init__()
            self.frozen = copy.deepcopy(old[:2]).requires_grad_(False)
            self.new = nn.Sequential(nn.Linear(64, 32), nn.ReLU())
            self.head = nn.Linear(96, 10)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                known = self.frozen(x)
            out: Tensor = self.head(torch.cat((known, self.new(x)), 1))
            return out

    model = Side()
    optimizer = Adam(filter(lambda p: p.requires_grad, model.parameters()), lr=1e-3)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        images, labels = next(loader)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))

"""Convolutional networks with a habit that looks like a fault."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import StepLR

from tests.clinic.case import Program, healthy
from tests.clinic.data import batches, digits
from tests.clinic.loops import errors, mean_loss, supervised
from tests.clinic.models import cnn, resnet


@healthy(steps=220, bound=0.12)
def lenet_of_tanhs() -> Program:
    """Tanh and average pooling, as in 1998."""
    task = digits(1, 8, 8)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 3, padding=1),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 40),
        nn.Tanh(),
        nn.Linear(40, 10),
    )
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), errors(model, task.x, task.y), validate=True)


@healthy(steps=300, bound=0.45)
def training_harder_than_validation() -> Program:
    """Half of the units dropped, and images shifted and blurred in training alone: its loss stays above the other."""
    task = digits(1, 8, 8)
    model = cnn(dropout=0.5)
    optimizer = Adam(model.parameters(), lr=3e-3)
    criterion = nn.CrossEntropyLoss()
    loader = batches(task.x, task.y, 32)

    def step(i: int) -> None:
        model.train()
        images, labels = next(loader)
        images = images.roll((int(torch.randint(-1, 2, ())), int(torch.randint(-1, 2, ()))), (2, 3))
        images = images + 0.3 * torch.randn_like(images)
        optimizer.zero_grad()
        criterion(model(images), labels).backward()
        optimizer.step()
        if i % 25 == 0:
            model.eval()
            with torch.no_grad():
                criterion(model(task.x_val), task.y_val)

    return Program(model, optimizer, step, mean_loss(model, task.x_val, task.y_val, F.cross_entropy))


@healthy(steps=200, bound=0.1)
def kernels_drawn_like_those_of_a_gan() -> Program:
    """normal(0, 0.02) everywhere, which batch norm makes good."""
    task = digits(1, 8, 8)
    model = cnn((16, 32, 32), activation=lambda: nn.LeakyReLU(0.2))
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(module.weight, std=0.02)
    optimizer = Adam(model.parameters(), lr=2e-3)
    return supervised(model, optimizer, task, F.cross_entropy, errors(model, task.x, task.y))


@healthy(steps=160, bound=0.1)
def four_small_batches_divided_by_four() -> Program:
    """Gradients add up over four backward passes, on purpose, and each loss is divided by four."""
    task = digits(1, 8, 8)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 24, 3, padding=1),
        nn.GroupNorm(4, 24),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24 * 16, 10),
    )
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    loader = batches(task.x, task.y, 8)

    def step(i: int) -> None:
        optimizer.zero_grad()
        for _ in range(4):
            images, labels = next(loader)
            (F.cross_entropy(model(images), labels) / 4).backward()
        optimizer.step()

    return Program(model, optimizer, step, errors(model, task.x, task.y))


@healthy(steps=200, bound=0.12)
def last_layer_of_zeros() -> Program:
    """The head alone starts at zero: the first loss is the logarithm of ten, and the layers below wait for one step."""
    task = digits(1, 8, 8)
    model = resnet(blocks=1, channels=12)
    head = model[-1]
    assert isinstance(head, nn.Linear)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    return supervised(model, optimizer, task, F.cross_entropy, errors(model, task.x, task.y), validate=True)


@healthy(steps=240, bound=0.12)
def rate_cut_twice_on_the_way() -> Program:
    """RMSprop; a step schedule that ends at a hundredth, where the loss hardly moves any more."""
    task = digits(1, 8, 8)
    model = cnn((12, 24))
    optimizer = RMSprop(model.parameters(), lr=2e-3)
    scheduler = StepLR(optimizer, 80, 0.1)
    return supervised(
        model,
        optimizer,
        task,
        nn.CrossEntropyLoss(),
        errors(model, task.x, task.y),
        validate=True,
        scheduler=scheduler,
    )


@healthy(steps=160, bound=0.1)
def odd_digits_from_even_ones_by_one_logit() -> Program:
    """One output, which is squeezed; most ReLUs of the last layer are silent for one of both classes."""
    task = digits(1, 8, 8)
    odd, odd_val = (task.y % 2).float(), (task.y_val % 2).float()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 16, 3, padding=1)
            self.fc1 = nn.Linear(16 * 16, 48)
            self.fc2 = nn.Linear(48, 1)

        def forward(self, x: Tensor) -> Tensor:
            hidden = F.max_pool2d(F.relu(self.conv(x)), 2).flatten(1)
            out: Tensor = self.fc2(F.relu(self.fc1(hidden))).squeeze(1)
            return out

    model = Net()
    optimizer = AdamW(model.parameters(), lr=2e-3)
    criterion = nn.BCEWithLogitsLoss()
    loader = batches(task.x, odd, 32)

    def step(i: int) -> None:
        images, target = next(loader)
        loss = criterion(model(images), target)
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        optimizer.step()
        if i % 40 == 0:
            with torch.no_grad():
                criterion(model(task.x_val), odd_val)

    return Program(model, optimizer, step, errors(model, task.x, odd))

"""More than one loss: several tasks, several backward calls, several exits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, AdamW
from torch.utils.data import DataLoader, TensorDataset

from tests.clinic import data, models
from tests.clinic.case import Program, healthy
from tests.clinic.turns import Loop, turns


class TwoTasks(nn.Module):
    """Which digit, and how much ink."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 48), nn.ReLU())
        self.digit = nn.Linear(48, 10)
        self.ink = nn.Linear(48, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = self.body(x)
        return {"digit": self.digit(hidden), "ink": self.ink(hidden).squeeze(1)}


def ink(x: Tensor) -> Tensor:
    return x.mean(1) / x.mean(1).std()


@healthy(steps=300, bound=0.65)
def two_tasks_summed() -> Program:
    x, y, x_val, y_val = data.digits()
    model = TwoTasks()
    optimizer = Adam(model.parameters(), lr=2e-3)
    loader = data.batches(x, y, 64)

    def losses(images: Tensor, labels: Tensor) -> list[Tensor]:
        output = model(images)
        return [F.cross_entropy(output["digit"], labels), 0.5 * F.mse_loss(output["ink"], ink(images))]

    def step(i: int) -> None:
        optimizer.zero_grad()
        loss = torch.stack(losses(*next(loader))).sum()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return float(sum(losses(x_val, y_val)))

    return Program(model, optimizer, step, loss)


@healthy(steps=250, bound=0.65)
def two_backward_calls_a_step() -> Program:
    x, y, x_val, y_val = data.digits()
    model = TwoTasks()
    optimizer = AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    loader = DataLoader(TensorDataset(x, y), batch_size=48, shuffle=True)

    def train() -> Loop:
        for _ in range(10):
            for images, labels in loader:
                optimizer.zero_grad()
                output = model(images)
                digit_loss = F.cross_entropy(output["digit"], labels)
                digit_loss.backward(retain_graph=True)
                ink_loss = F.smooth_l1_loss(output["ink"], ink(images))
                ink_loss.backward()
                optimizer.step()
                yield

    def loss() -> float:
        with torch.no_grad():
            output = model(x_val)
            return (F.cross_entropy(output["digit"], y_val) + F.smooth_l1_loss(output["ink"], ink(x_val))).item()

    return Program(model, optimizer, turns(train()), loss)


class DeeplySupervised(nn.Module):
    """A convolutional network with an exit after each block."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 12, 24, 24)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(widths[i], widths[i + 1], 3, padding=1, bias=False), nn.BatchNorm2d(widths[i + 1]), nn.ReLU()
            )
            for i in range(3)
        )
        self.exits = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 10)) for width in widths[1:]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        answers = []
        for number, (block, leave) in enumerate(zip(self.blocks, self.exits, strict=True)):
            x = block(x if number == 0 else F.max_pool2d(x, 2))
            answers.append(leave(x))
        return answers


@healthy(steps=180, bound=0.51)
def an_exit_after_each_block() -> Program:
    x, y, x_val, y_val = data.digits(1, 8, 8)
    model = DeeplySupervised()
    optimizer = Adam(model.parameters(), lr=5e-3)
    loader = data.batches(x, y, 64)
    criterion = nn.CrossEntropyLoss()

    def step(i: int) -> None:
        model.train()
        images, labels = next(loader)
        *early, final = model(images)
        loss = criterion(final, labels) + 0.3 * sum(criterion(answer, labels) for answer in early)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        model.eval()
        with torch.no_grad():
            return float(criterion(model(x_val)[-1], y_val))

    return Program(model, optimizer, step, loss)


class Reconstructing(nn.Module):
    """Classifies, and reconstructs its input; tells all its losses at once."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = models.mlp(64, 96, 32)
        self.decoder = models.mlp(32, 96, 64)
        self.classifier = nn.Linear(32, 10)
        self.log_variances = nn.Parameter(torch.zeros(2))  # how much each loss counts is learned

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        code = F.relu(self.encoder(x))
        losses = torch.stack((F.cross_entropy(self.classifier(code), y), F.mse_loss(self.decoder(code), x)))
        return ((-self.log_variances).exp() * losses + self.log_variances).sum(), losses


@healthy(steps=300, bound=0.87)
def losses_weighted_by_learned_uncertainty() -> Program:
    x, y, x_val, y_val = data.digits()
    model = Reconstructing()
    optimizer = Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)

    def train() -> Loop:
        while True:
            for images, labels in loader:
                total, _ = model(images, labels)
                optimizer.zero_grad()
                total.backward()
                optimizer.step()
                yield

    def loss() -> float:
        with torch.no_grad():
            return float(model(x_val, y_val)[1].sum())

    return Program(model, optimizer, turns(train()), loss)


class TwoHeads(nn.Module):
    """One body; each call uses one of the heads."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 96), nn.ReLU())
        self.heads = nn.ModuleDict({"digit": nn.Linear(96, 10), "odd": nn.Linear(96, 2)})

    def forward(self, x: Tensor, task: str) -> Tensor:
        out: Tensor = self.heads[task](self.body(x))
        return out


@healthy(steps=400, bound=0.58)
def tasks_in_turn() -> Program:
    x, y, x_val, y_val = data.digits()
    model = TwoHeads()
    optimizer = Adam(model.parameters(), lr=2e-3)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        images, labels = next(loader)
        optimizer.zero_grad()
        if i % 2:
            loss = F.cross_entropy(model(images, "digit"), labels)
        else:
            loss = F.cross_entropy(model(images, "odd"), labels % 2)
        loss.backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return F.cross_entropy(model(x_val, "digit"), y_val).item()

    return Program(model, optimizer, step, loss)

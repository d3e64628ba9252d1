"""Healthy programs that look odd: losses that jump, layers at rest, inputs with gaps, models without layers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler, autocast
from torch.optim import SGD, Adadelta, Adam, AdamW
from torch.utils.data import DataLoader, TensorDataset

from tests.clinic import data, models
from tests.clinic.case import Program, healthy
from tests.clinic.loops import mean_loss
from tests.clinic.turns import Loop, turns


class TwoHeads(nn.Module):
    """One body; each call uses one of the heads."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 96), nn.ReLU())
        self.heads = nn.ModuleDict({"digit": nn.Linear(96, 10), "odd": nn.Linear(96, 2)})

    def forward(self, x: Tensor, task: str) -> Tensor:
        out: Tensor = self.heads[task](self.body(x))
        return out


@healthy(steps=400, bound=0.3)
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


@healthy(steps=400, bound=0.1)
def harder_lessons_later() -> Program:
    model = models.Recurrent(nn.GRU, 2, 32, 1)
    optimizer = Adam(model.parameters(), lr=5e-3)
    lessons = [data.adding(1500, length) for length in (4, 8, 16)]  # the loss jumps at each new one

    def train() -> Loop:
        for lesson in lessons:
            loader = data.batches(lesson.x, lesson.y, 50)
            for _ in range(130):
                numbers, sums = next(loader)
                optimizer.zero_grad()
                F.mse_loss(model(numbers), sums).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                yield

    return Program(model, optimizer, turns(train()), mean_loss(model, lessons[2].x_val, lessons[2].y_val, F.mse_loss))


class FillsGaps(nn.Module):
    """Takes a table with NaN for what is missing."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.net = models.mlp(2 * inputs, 48, outputs)

    def forward(self, x: Tensor) -> Tensor:
        missing = x.isnan()
        out: Tensor = self.net(torch.cat((x.nan_to_num(), missing.float()), 1))
        return out


@healthy(steps=250, bound=0.4)
def missing_values_as_nan() -> Program:
    x, y, x_val, y_val = data.blobs(2000, classes=5, features=8, spread=2.0)
    x, x_val = (part.masked_fill(torch.rand_like(part) < 0.1, math.nan) for part in (x, x_val))
    model = FillsGaps(8, 5)
    optimizer = Adam(model.parameters(), lr=3e-3)
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)

    def train() -> Loop:
        for _ in range(10):
            for features, labels in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(features), labels).backward()
                optimizer.step()
                yield
            with torch.no_grad():
                F.cross_entropy(model(x_val), y_val)

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=250, bound=0.01)
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


@healthy(steps=700, bound=0.4)
def two_images_a_batch_with_groupnorm() -> Program:
    x, y, x_val, y_val = data.digits(1, 8, 8)
    layers: list[nn.Module] = []
    for before, after in ((1, 8), (8, 16)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(4, after), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 10))
    optimizer = SGD(model.parameters(), lr=0.01)
    loader = DataLoader(TensorDataset(x, y), batch_size=2, shuffle=True)

    def train() -> Loop:
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            yield

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))


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


@healthy(steps=150, bound=0.5)
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


@healthy(steps=200, bound=3.6)
def survival_by_partial_likelihood() -> Program:
    x = torch.randn(1500, 8)
    risk = x[:, 0] - 0.8 * x[:, 1] + 0.5 * x[:, 2] * x[:, 3]
    time = torch.distributions.Exponential(risk.exp()).sample()
    seen = torch.rand(1500) < 0.7  # the others are censored
    model = nn.Sequential(models.mlp(8, 32, 1), nn.Flatten(0))
    optimizer = AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)

    def cox_loss(chosen: Tensor) -> Tensor:
        latest_first = chosen[time[chosen].argsort(descending=True)]
        score = model(x[latest_first])
        losses: Tensor = score.logcumsumexp(0) - score
        return losses[seen[latest_first]].mean()

    def step(i: int) -> None:
        optimizer.zero_grad()
        loss = cox_loss(torch.randperm(1200)[:128])
        loss.backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return cox_loss(torch.arange(1200, 1500)).item() - math.log(300 / 128)

    return Program(model, optimizer, step, loss)


@healthy(steps=200, bound=0.4)
def first_scaled_steps_overflow() -> Program:
    x, y, x_val, y_val = data.digits()
    model = models.mlp(64, 96, 10)
    optimizer = Adam(model.parameters(), lr=3e-3)
    scaler = GradScaler("cpu", init_scale=2.0**26)  # halved until gradients fit into float16
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        images, labels = next(loader)
        with autocast("cpu", dtype=torch.float16):
            loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=250, bound=0.5)
def trained_on_adversarial_examples() -> Program:
    x, y, x_val, y_val = data.digits()
    model = models.mlp(64, 128, 10)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    loader = data.batches(x, y, 64)

    def attacked(images: Tensor, labels: Tensor) -> Tensor:
        images = images.clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(model(images), labels), images)
        return (images + 0.1 * slope.sign()).detach()

    def step(i: int) -> None:
        images, labels = next(loader)
        hard = attacked(images, labels)
        optimizer.zero_grad()
        loss = 0.5 * F.cross_entropy(model(images), labels) + 0.5 * F.cross_entropy(model(hard), labels)
        loss.backward()
        optimizer.step()

    def loss() -> float:
        hard = attacked(x_val, y_val)
        with torch.no_grad():
            return F.cross_entropy(model(hard), y_val).item()

    return Program(model, optimizer, step, loss)


@healthy(steps=300, bound=0.6)
def mixed_samples_and_soft_targets() -> Program:
    x, y, x_val, y_val = data.digits(1, 8, 8)
    model = models.cnn((12, 24))
    optimizer = AdamW(model.parameters(), lr=3e-3)
    loader = data.batches(x, F.one_hot(y, 10).float(), 48)
    beta = torch.distributions.Beta(0.4, 0.4)

    def train() -> Loop:
        while True:
            model.train()
            images, targets = next(loader)
            share, other = beta.sample(), torch.randperm(48)
            mixed, soft = torch.lerp(images[other], images, share), torch.lerp(targets[other], targets, share)
            optimizer.zero_grad()
            F.cross_entropy(model(mixed), soft).backward()
            optimizer.step()
            yield

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=300, bound=0.06)
def focal_loss_for_a_rare_class() -> Program:
    x, y, x_val, y_val = data.imbalanced(4000, rare=0.08)
    head = nn.Linear(32, 1)
    nn.init.constant_(head.bias, -math.log(0.92 / 0.08))  # the rare class is rare from the start
    model = nn.Sequential(models.mlp(12, 32, 32), nn.ReLU(), head, nn.Flatten(0))
    optimizer = Adam(model.parameters(), lr=3e-3)
    loader = data.batches(x, y.float(), 128)

    def focal(logits: Tensor, labels: Tensor) -> Tensor:
        loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return (loss * (1 - (-loss).exp()) ** 2).mean()

    def step(i: int) -> None:
        features, labels = next(loader)
        loss = focal(model(features), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val.float(), focal))


class Binary(torch.autograd.Function):
    """The sign of each number; its gradient goes straight through where the number is small."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.where(x < 0, -1.0, 1.0)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        out: Tensor = gradients[0] * (x.abs() < 1)
        return out


class BinaryLayer(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = Binary.apply(self.norm(self.linear(x)))
        return out


@healthy(steps=300, bound=0.6)
def units_of_one_bit() -> Program:
    x, y, x_val, y_val = data.digits()
    model = nn.Sequential(BinaryLayer(64, 128), BinaryLayer(128, 128), nn.Linear(128, 10))
    optimizer = Adam(model.parameters(), lr=3e-3)
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True, drop_last=True)

    def train() -> Loop:
        for _ in range(14):
            model.train()
            for images, labels in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(images), labels).backward()
                optimizer.step()
                yield
            model.eval()
            with torch.no_grad():
                F.cross_entropy(model(x_val), y_val)

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=300, bound=0.5)
def counts_of_words_mostly_zero() -> Program:
    topic = torch.randint(4, (2000,))
    chances = torch.distributions.Dirichlet(torch.full((200,), 0.1)).sample((4,)) + 0.005
    words = torch.multinomial(chances[topic], 15, replacement=True)
    counts = torch.zeros(2000, 200).scatter_add_(1, words, torch.ones(words.shape))
    x, y, x_val, y_val = data.split(counts, topic)
    model = models.mlp(200, 32, 4)
    optimizer = Adadelta(model.parameters(), lr=1.0)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        documents, topics = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(documents), topics).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=300, bound=0.4)
def preferences_between_pairs() -> Program:
    x = torch.randn(3000, 10)
    worth = x[:, 0] + torch.sin(2 * x[:, 1]) + x[:, 2].abs()
    model = nn.Sequential(models.mlp(10, 48, 1, activation=nn.ReLU), nn.Flatten(0))
    optimizer = Adam(model.parameters(), lr=3e-3)

    def pair_loss(size: int, low: int, high: int) -> Tensor:
        one, other = torch.randint(low, high, (2, size))
        better = (worth[one] > worth[other]).float()
        return F.binary_cross_entropy_with_logits(model(x[one]) - model(x[other]), better)

    def step(i: int) -> None:
        optimizer.zero_grad()
        pair_loss(64, 0, 2500).backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return pair_loss(4000, 2500, 3000).item()

    return Program(model, optimizer, step, loss)


@healthy(steps=400, bound=0.35)
def sigmoid_units_of_the_old_school() -> Program:
    x, y, x_val, y_val = data.digits()
    model = models.mlp(64, 48, 10, activation=nn.Sigmoid)
    models.initialise(model, nn.init.xavier_normal_)
    optimizer = SGD(model.parameters(), lr=0.5, momentum=0.5)
    loader = data.batches(x, y, 32)

    def step(i: int) -> None:
        images, labels = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))

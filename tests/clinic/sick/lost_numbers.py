"""Losses that become NaN, infinite, or nearly so, by arithmetic that everybody writes once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam

from tests.clinic.case import Program, sick
from tests.clinic.data import batches, digits, friedman, split, table
from tests.clinic.loops import errors, mean_loss, supervised


@sick("non-finite", steps=60, by=10, bound=0.3)
def deviation_of_pixels_that_never_change(fault: bool) -> Program:
    """The corners of all images are black: their deviation is zero, and they are divided by it."""
    raw = digits(raw=True)
    mean, std = raw.x.mean(0), raw.x.std(0)
    x = (raw.x - mean) / (std if fault else std.clamp_min(1e-3))
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = Adam(model.parameters(), lr=3e-3)
    loader = batches(x, raw.y, 64)

    def step(i: int) -> None:
        images, labels = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return Program(model, optimizer, step, errors(model, x, raw.y))


@sick("non-finite", "unnormalized-input", steps=120, by=30, bound=0.15)
def binary_cross_entropy_written_out(fault: bool) -> Program:
    """The formula of the lecture, on measurements in their own units: sigmoids of 1 and logarithms of 0."""
    task = table("breast_cancer", raw=fault)
    y = task.y.float()
    model = nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 1), nn.Sigmoid())
    optimizer = SGD(model.parameters(), lr=0.1)
    loader = batches(task.x, y, 32)

    def step(i: int) -> None:
        features, diagnosis = next(loader)
        p = model(features).squeeze(1)
        loss = -(diagnosis * torch.log(p) + (1 - diagnosis) * torch.log(1 - p)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        """Share of wrong answers; none is right where the answer is no number."""
        with torch.no_grad():
            p = model(task.x).squeeze(1)
            return 1 - float(torch.where(task.y == 1, p > 0.5, p <= 0.5).float().mean())

    return Program(model, optimizer, step, loss)


def _demand(samples: int = 1000) -> tuple[Tensor, Tensor]:
    """Features, and what was sold: counts, some of them zero."""
    x = torch.randn(samples, 6)
    rate = torch.exp(1.0 + 0.5 * x[:, 0] - 0.4 * x[:, 1] + 0.3 * (x[:, 2] * x[:, 3]).tanh())
    return x, torch.poisson(rate)


@sick("non-finite", steps=120, by=10, bound=0.8)
def logarithm_of_days_without_a_sale(fault: bool) -> Program:
    """Counts are fitted on a logarithmic scale, with log() in place of log1p()."""
    features, sold = _demand()
    task = split(features, sold.unsqueeze(1))
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = Adam(model.parameters(), lr=5e-3)
    loader = batches(task.x, task.y, 32)

    def step(i: int) -> None:
        x, counts = next(loader)
        loss = F.mse_loss(model(x), counts.log() if fault else counts.log1p())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            target = task.y.log1p()
            error = float((model(task.x) - target).square().mean() / target.var())
            return error if error == error else 100.0

    return Program(model, optimizer, step, loss)


@sick("non-finite", steps=120, by=10, bound=0.9)
def percentage_of_days_without_a_sale(fault: bool) -> Program:
    """The mean absolute percentage error divides by targets that may be zero."""
    features, sold = _demand()
    x, y, _, _ = split(features, sold.unsqueeze(1))
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1), nn.Softplus())
    optimizer = Adam(model.parameters(), lr=1e-2)
    loader = batches(x, y, 32)

    def percentage(answer: Tensor, target: Tensor) -> Tensor:
        if fault:
            return ((answer - target).abs() / target).mean()
        return ((answer - target).abs() / (target.abs() + 1)).mean()

    def step(i: int) -> None:
        inputs, counts = next(loader)
        optimizer.zero_grad()
        percentage(model(inputs), counts).backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            error = float((model(x) - y).abs().mean() / (y - y.median()).abs().mean())
            return error if error == error else 100.0

    return Program(model, optimizer, step, loss)


@sick(
    "unnormalized-input",
    "diverging-loss",
    "exploding-gradient",
    "learning-rate-too-large",
    steps=80,
    by=30,
    bound=0.5,
)
def wage_from_year_and_postcode(fault: bool) -> Program:
    """Columns of a table as they stand there, and SGD with the rate of the tutorial."""
    x = torch.stack(
        (
            torch.randint(1950, 2005, (900,)).float(),
            torch.randint(10_000, 99_999, (900,)).float(),
            torch.rand(900) * 40,
            torch.randint(1, 6, (900,)).float(),
        ),
        1,
    )
    scaled = (x - x.mean(0)) / x.std(0)
    y = scaled @ torch.tensor([-0.3, 0.1, 0.6, 0.5]) + 0.3 * scaled[:, 2] * scaled[:, 3] + 0.3 * torch.randn(900)
    task = split(x if fault else scaled, ((y - y.mean()) / y.std()).unsqueeze(1))
    model = nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 1))
    optimizer = SGD(model.parameters(), lr=0.05)
    criterion = nn.MSELoss()
    loader = batches(task.x, task.y, 30)

    def step(i: int) -> None:
        features, wage = next(loader)
        loss = criterion(model(features), wage)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            error = float(criterion(model(task.x), task.y))
            return error if error == error else 1e9

    return Program(model, optimizer, step, loss)


@sick("non-finite", steps=150, by=100, bound=0.2)
def mean_over_no_valid_pixel(fault: bool) -> Program:
    """Only labelled pixels count; now and then a batch of two images has none, and zero is divided by zero."""
    images = torch.randn(400, 1, 8, 8)
    smooth = F.avg_pool2d(images, 3, stride=1, padding=1)
    target = (smooth > 0).float()
    labelled = (torch.rand(400, 1, 1, 1) < 0.75).float() * (torch.rand(400, 1, 8, 8) < 0.5).float()
    model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1))
    optimizer = Adam(model.parameters(), lr=1e-2)

    def step(i: int) -> None:
        chosen = torch.randint(400, (2,))
        mask = labelled[chosen]
        each = F.binary_cross_entropy_with_logits(model(images[chosen]), target[chosen], reduction="none")
        loss = (each * mask).sum() / (mask.sum() if fault else mask.sum().clamp_min(1.0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        """Share of wrong pixels; none is right where the answer is no number."""
        with torch.no_grad():
            answer = model(images)
            right = torch.where(target == 1, answer > 0, answer <= 0)
            return 1 - float(right.float().mean())

    return Program(model, optimizer, step, loss)


@sick("non-finite", steps=120, by=20, bound=0.25)
def root_of_the_error_of_absent_outputs(fault: bool) -> Program:
    """The root of each row's squared error: where a row has no measurement, both sides are zero, and so is the root."""
    x, y, _, _ = friedman()
    known = (torch.rand(len(x), 1) < 0.9).float()
    model = nn.Sequential(nn.Linear(10, 48), nn.ReLU(), nn.Linear(48, 1))
    optimizer = Adam(model.parameters(), lr=1e-2)
    loader = batches(x, torch.cat((y * known, known), 1), 32)

    def step(i: int) -> None:
        features, both = next(loader)
        target, mask = both[:, :1], both[:, 1:]
        squares = (model(features) * mask - target).square().sum(1)
        loss = (squares if fault else squares + 1e-6).sqrt().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        error = mean_loss(model, x, y, F.mse_loss)()
        return error if error == error else 100.0

    return Program(model, optimizer, step, loss)


@sick("non-finite", "learning-rate-too-large", steps=100, by=40, bound=0.15)
def softmax_then_log_at_a_rate_of_five(fault: bool) -> Program:
    """Probabilities in the model and their logarithm in the loss: they are zero as soon as a step is long."""
    task = digits()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10), nn.Softmax(dim=1))
    optimizer = SGD(model.parameters(), lr=5.0 if fault else 0.3)

    def log_loss(p: Tensor, y: Tensor) -> Tensor:
        return F.nll_loss(torch.log(p), y)

    return supervised(model, optimizer, task, log_loss, errors(model, task.x, task.y))

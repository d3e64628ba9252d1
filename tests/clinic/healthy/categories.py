"""Tables with categories, heavy tails and rare labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, RMSprop, SparseAdam
from torch.optim.lr_scheduler import CyclicLR

from tests.clinic import data, models, tasks
from tests.clinic.case import Program, healthy
from tests.clinic.loops import mean_loss, supervised


class Columns(nn.Module):
    """An embedding a column, and an MLP with dropout over all of them."""

    def __init__(self, *counts: int, width: int = 8) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(count, width) for count in counts)
        self.body = models.mlp(width * len(counts), 48, 24, 1, dropout=0.1)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.body(torch.cat([table(ids[:, place]) for place, table in enumerate(self.tables)], 1))
        return out


@healthy(steps=300, bound=0.44)
def categories_with_adagrad() -> Program:
    model = Columns(30, 20, 12)
    task = tasks.ratings(3000)
    optimizer = Adagrad(model.parameters(), lr=0.05)
    loss = mean_loss(model, task.x_val, task.y_val, F.mse_loss)
    return supervised(model, optimizer, task, nn.MSELoss(), loss, batch=128, validate=True)


@healthy(steps=300, bound=0.24)
def factors_and_biases_with_two_optimizers() -> Program:
    """A factorisation whose tables get sparse gradients; the few dense weights have an optimizer of their own."""

    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.items = nn.Embedding(30, 8, sparse=True), nn.Embedding(20, 8, sparse=True)
            self.month = nn.Linear(12, 1)
            for table in (self.users, self.items):
                nn.init.normal_(table.weight, std=0.3)

        def forward(self, ids: Tensor) -> Tensor:
            product = (self.users(ids[:, 0]) * self.items(ids[:, 1])).sum(1, keepdim=True)
            out: Tensor = product + self.month(F.one_hot(ids[:, 2], 12).float())
            return out

    model = Factors()
    task = tasks.ratings(3000)
    loader = data.batches(task.x, task.y, 64)
    tables = SparseAdam([*model.users.parameters(), *model.items.parameters()], lr=2e-2)
    rest = SGD(model.month.parameters(), lr=0.1)

    def step(i: int) -> None:
        ids, rating = next(loader)
        loss = F.mse_loss(model(ids), rating)
        tables.zero_grad()
        rest.zero_grad()
        loss.backward()
        tables.step()
        rest.step()

    return Program(model, tables, step, mean_loss(model, task.x_val, task.y_val, F.mse_loss))


@healthy(steps=300, bound=0.35)
def rare_tags_with_weights() -> Program:
    model = models.mlp(20, 64, 12, activation=nn.GELU)
    x = torch.randn(4000, 20)
    task = data.split(x, (x @ torch.randn(20, 12) / 20**0.5 > 1.5).float())
    optimizer = AdamW(model.parameters(), lr=2e-3)
    criterion = nn.BCEWithLogitsLoss(pos_weight=torch.full((12,), 8.0))
    loss = mean_loss(model, task.x_val, task.y_val, criterion)
    return supervised(model, optimizer, task, criterion, loss, batch=64, validate=True)


@healthy(steps=350, bound=0.3)
def targets_with_heavy_tails() -> Program:
    """Noise of Student's t with two degrees of freedom: now and then a row is off by thirty deviations."""
    model = models.mlp(10, 48, 48, 1, activation=nn.SiLU)
    task = data.friedman(3000)
    noise = torch.distributions.StudentT(2.0)
    optimizer = RMSprop(model.parameters(), lr=1e-3)
    loss = mean_loss(model, task.x_val, task.y_val, F.mse_loss)
    noisy = task._replace(y=task.y + 0.5 * noise.sample(task.y.shape))
    return supervised(model, optimizer, noisy, nn.L1Loss(), loss, batch=64)


@healthy(steps=400, bound=1.2)
def sums_insured_by_a_gamma_likelihood() -> Program:
    """Positive, skewed targets: the network gives the logarithm of a mean."""
    model = models.mlp(8, 32, 1, activation=nn.Softplus)
    x = torch.randn(4000, 8)
    mean = (0.6 * x @ torch.randn(8, 1) / 8**0.5 + x[:, :1].tanh()).exp()
    task = data.split(x, torch.distributions.Gamma(2.0, 2.0 / mean).sample())
    optimizer = Adam(model.parameters(), lr=3e-3)

    def surprise(p: Tensor, t: Tensor) -> Tensor:
        return (p + t * torch.exp(-p)).mean()

    return supervised(model, optimizer, task, surprise, mean_loss(model, task.x_val, task.y_val, surprise), batch=128)


@healthy(steps=400, bound=0.27)
def rate_that_goes_up_and_down() -> Program:
    model = models.mlp(13, 24, 3, activation=nn.Tanh)
    task = data.table("wine")
    optimizer = SGD(model.parameters(), lr=0.01, momentum=0.8, weight_decay=1e-3)
    scheduler = CyclicLR(optimizer, base_lr=0.01, max_lr=0.3, step_size_up=40, mode="triangular2", cycle_momentum=False)
    loss = mean_loss(model, task.x_val, task.y_val, F.cross_entropy)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    return supervised(model, optimizer, task, criterion, loss, batch=32, scheduler=scheduler)

"""Tables with categories, dates, missing values and rare labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, NAdam, RMSprop

from tests.clinic import data, models, tasks
from tests.clinic.case import Program, sick
from tests.clinic.data import Data
from tests.clinic.loops import mean_loss, supervised

USERS, ITEMS, MONTHS = 30, 20, 12


class Recommender(nn.Module):
    """An embedding a column, and an MLP over all of them."""

    def __init__(self, *counts: int, width: int = 8, hidden: int = 32, dropout: float = 0.0) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(count, width) for count in counts)
        self.drop = nn.Dropout(dropout)
        self.body = models.mlp(width * len(counts), hidden, hidden, 1)

    def forward(self, ids: Tensor) -> Tensor:
        columns = [table(ids[:, place]) for place, table in enumerate(self.tables)]
        out: Tensor = self.body(self.drop(torch.cat(columns, 1)))
        return out


@sick("unnormalized-input", steps=250, by=5, bound=0.75)
def seconds_since_1970(fault: bool) -> Program:
    """A date goes in as it comes out of the data base, beside nine columns of unit variance."""
    model = models.mlp(10, 32, 32, 1)
    task = data.friedman()
    if fault:
        for table in (task.x, task.x_val):
            table[:, 0] = 1.7e9 + 3e7 * table[:, 0]
    optimizer = Adam(model.parameters(), lr=3e-3)
    return supervised(model, optimizer, task, nn.MSELoss(), mean_loss(model, task.x, task.y, F.mse_loss), batch=64)


@sick("unnormalized-input", "loss-spike", "exploding-gradient", steps=250, by=50, bound=0.4)
def missing_values_as_minus_9999(fault: bool) -> Program:
    model = models.mlp(10, 48, 1, activation=nn.LeakyReLU)
    task = data.friedman()
    if fault:
        task = task._replace(x=torch.where(torch.rand_like(task.x) < 0.01, -9999.0, task.x))
    optimizer = AdamW(model.parameters(), lr=5e-3)
    return supervised(model, optimizer, task, nn.MSELoss(), mean_loss(model, task.x, task.y, F.mse_loss), batch=32)


@sick(
    "overfitting",
    steps=300,
    by=250,
    bound=0.75,
)
def row_numbers_as_a_feature(fault: bool) -> Program:
    """The index of the frame was left in: a row of an embedding for each row of the table."""
    task = tasks.ratings(1000, noise=0.5)
    count = len(task.x) + len(task.x_val)
    numbers = torch.arange(count).unsqueeze(1)
    task = task._replace(
        x=torch.cat((task.x, numbers[: len(task.x)]), 1), x_val=torch.cat((task.x_val, numbers[len(task.x) :]), 1)
    )
    model = Recommender(USERS, ITEMS, MONTHS, *([count] if fault else []))
    optimizer = Adam(model.parameters(), lr=5e-3, weight_decay=1e-3)
    loss = mean_loss(model, task.x_val, task.y_val, F.mse_loss)
    return supervised(model, optimizer, task, nn.MSELoss(), loss, batch=32, validate=True)


@sick("excess-dropout", "underfitting", steps=300, by=150, bound=0.6)
def embeddings_nearly_all_dropped(fault: bool) -> Program:
    """keep_prob of an older framework given as the chance to drop."""
    model = Recommender(USERS, ITEMS, MONTHS, width=16, dropout=0.95 if fault else 0.05)
    task = tasks.ratings()
    optimizer = NAdam(model.parameters(), lr=5e-3)
    return supervised(model, optimizer, task, nn.SmoothL1Loss(), mean_loss(model, task.x, task.y, F.mse_loss), batch=64)


@sick(
    "train-val-mismatch",
    steps=300,
    by=150,
    bound=0.7,
    miss="overfitting is said: squared errors of twenty-five batches do not tell what was gained on new samples",
)
def categories_numbered_anew_for_validation(fault: bool) -> Program:
    """The encoder was fitted once more: user 3 of the training is another than user 3 of the validation."""
    model = Recommender(USERS, ITEMS, MONTHS)
    task = tasks.ratings()
    if fault:
        orders = [torch.randperm(count) for count in (USERS, ITEMS, MONTHS)]
        task = task._replace(x_val=torch.stack([order[task.x_val[:, i]] for i, order in enumerate(orders)], 1))
    optimizer = Adam(model.parameters(), lr=5e-3, weight_decay=1e-4)
    loss = mean_loss(model, task.x_val, task.y_val, F.mse_loss)
    return supervised(model, optimizer, task, nn.MSELoss(), loss, batch=64, validate=True)


@sick("unnormalized-target", steps=250, by=20, bound=0.3)
def revenue_beside_a_rating(fault: bool) -> Program:
    """Several outputs with one loss: the one in dollars drowns the others."""
    model = models.mlp(10, 48, 3)
    x, y, x_val, y_val = data.friedman()
    others = torch.stack((x[:, 0] * x[:, 1], x[:, 2].tanh()), 1)
    targets = torch.cat((5e4 * (y + 2) if fault else y, others), 1)
    task = Data(x, targets, x_val, y_val)
    optimizer = RMSprop(model.parameters(), lr=2e-3)

    def loss() -> float:
        with torch.no_grad():
            answer = model(x)
            first = answer[:, :1] / 5e4 - 2 if fault else answer[:, :1]
            return float(F.mse_loss(torch.cat((first, answer[:, 1:].clamp(-9, 9)), 1), torch.cat((y, others), 1)))

    return supervised(model, optimizer, task, nn.MSELoss(), loss, batch=32)


@sick(
    "learning-rate-too-small",
    "underfitting",
    steps=250,
    by=125,
    bound=0.7,
    miss="named by a symptom alone when it was first measured",
)
def embeddings_at_a_rate_for_fine_tuning(fault: bool) -> Program:
    model = Recommender(USERS, ITEMS, MONTHS)
    task = tasks.ratings()
    optimizer = Adagrad(model.parameters(), lr=1e-4 if fault else 0.1)
    return supervised(model, optimizer, task, nn.MSELoss(), mean_loss(model, task.x, task.y, F.mse_loss), batch=128)


@sick("not-learning", "underfitting", "noisy-gradient", "overfitting", steps=200, by=120, bound=0.5)
def rows_dropped_from_features_only(fault: bool) -> Program:
    """Rows with missing values were dropped from x, and y was cut to the same length: all targets belong to others."""
    model = models.mlp(10, 32, 1, activation=nn.SiLU)
    task = data.friedman(2000)
    if fault:
        task = task._replace(y=task.y.roll(7, 0), y_val=task.y_val.roll(7, 0))
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    loss = mean_loss(model, task.x, task.y, F.mse_loss)
    return supervised(model, optimizer, task, nn.MSELoss(), loss, batch=128, validate=True)


def _false_answers(model: nn.Module, task: Data) -> float:
    """1 - F1 of all labels together."""
    with torch.no_grad():
        found = model(task.x) > 0
        return float(1 - 2 * (found * task.y).sum() / (found.sum() + task.y.sum()).clamp_min(1))


@sick(
    "class-collapse",
    "class-imbalance",
    "unexpected-initial-loss",
    steps=200,
    by=100,
    bound=0.45,
)
def ones_that_weigh_a_hundred(fault: bool) -> Program:
    """A weight made for one label in a hundred, where every third is a one: all answers become yes."""
    model = models.mlp(20, 48, 8)
    task = data.multilabel()
    optimizer = Adam(model.parameters(), lr=3e-3)
    criterion = nn.BCEWithLogitsLoss(pos_weight=torch.full((8,), 100.0 if fault else 1.5))
    return supervised(model, optimizer, task, criterion, lambda: _false_answers(model, task), batch=64)


@sick(
    "class-imbalance",
    "class-collapse",
    steps=150,
    by=75,
    bound=0.6,
)
def labels_that_are_rarely_given(fault: bool) -> Program:
    """Forty tags, each for three rows in a hundred: an answer without any tag is nearly right."""
    model = models.mlp(20, 48, 40)
    x = torch.randn(3000, 20)
    scores = x @ torch.randn(20, 40) / 20**0.5
    task = data.split(x, (scores > 1.9).float())
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    criterion = nn.BCEWithLogitsLoss(pos_weight=None if fault else torch.full((40,), 15.0))
    return supervised(model, optimizer, task, criterion, lambda: _false_answers(model, task), batch=128)

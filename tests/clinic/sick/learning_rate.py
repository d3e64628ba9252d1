"""Learning rates of the wrong order of magnitude."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import nn
from torch.nn.functional import cross_entropy as criterion
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import LambdaLR, StepLR

from tests.clinic import data, models
from tests.clinic.case import Program, sick
from tests.clinic.loops import cross_entropy, errors, mean_loss, supervised

TOO_SMALL, TOO_LARGE = "learning-rate-too-small", "learning-rate-too-large"


@sick(TOO_SMALL, steps=400, by=100, bound=0.5)
def sgd_a_thousand_times_too_slow(fault: bool) -> Program:
    model = models.mlp(64, 64, 10)
    task = data.digits()
    optimizer = SGD(model.parameters(), lr=1e-4 if fault else 0.1)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), mean_loss(model, task.x, task.y, cross_entropy))


@sick(TOO_SMALL, steps=200, by=80, bound=0.5)
def adam_at_a_millionth(fault: bool) -> Program:
    model = models.cnn((8, 16))
    task = data.digits(1, 8, 8)
    optimizer = Adam(model.parameters(), lr=1e-6 if fault else 2e-3)
    return supervised(model, optimizer, task, criterion, mean_loss(model, task.x, task.y, cross_entropy), validate=True)


@sick(TOO_SMALL, steps=200, by=80, bound=0.5)
def transformer_at_a_learning_rate_for_fine_tuning(fault: bool) -> Program:
    model = models.Encoder(8, 10, 8)
    task = data.digits(8, 8)
    optimizer = AdamW(model.parameters(), lr=2e-6 if fault else 3e-3)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), mean_loss(model, task.x, task.y, cross_entropy))


@sick(TOO_SMALL, steps=300, by=100, bound=0.4)
def regression_at_a_crawl(fault: bool) -> Program:
    model = models.mlp(10, 32, 1, activation=nn.Tanh)
    task = data.friedman()
    optimizer = SGD(model.parameters(), lr=2e-5 if fault else 0.05, momentum=0.5)
    return supervised(
        model, optimizer, task, lambda p, t: ((p - t) ** 2).mean(), mean_loss(model, task.x, task.y, F.mse_loss)
    )


@sick(TOO_SMALL, steps=300, by=150, bound=0.5)
def scheduler_stepped_with_each_batch(fault: bool) -> Program:
    """A decay meant for epochs, applied to batches, has stopped the training after a hundred of them."""
    model = models.Recurrent(nn.GRU, 8, 48, 10)
    task = data.digits(8, 8)
    optimizer = Adam(model.parameters(), lr=3e-3)
    scheduler = StepLR(optimizer, 5 if fault else 5 * 44, gamma=0.5)
    loss = mean_loss(model, task.x, task.y, cross_entropy)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), loss, scheduler=scheduler)


@sick(TOO_LARGE, "dead-units", steps=200, by=60, bound=0.5)
def sgd_of_ten(fault: bool) -> Program:
    model = models.mlp(64, 64, 64, 10, activation=nn.Tanh)
    task = data.digits()
    optimizer = SGD(model.parameters(), lr=10.0 if fault else 0.1)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), mean_loss(model, task.x, task.y, cross_entropy))


@sick(TOO_LARGE, "dead-units", steps=150, by=60, bound=0.5)
def adam_of_a_half(fault: bool) -> Program:
    model = models.cnn((8, 16), norm=False)
    task = data.digits(1, 8, 8)
    optimizer = Adam(model.parameters(), lr=0.5 if fault else 3e-3)
    return supervised(
        model, optimizer, task, lambda p, t: F.cross_entropy(p, t), mean_loss(model, task.x, task.y, cross_entropy)
    )


@sick(TOO_LARGE, steps=150, by=100, bound=1.3)
def transformer_without_warm_up(fault: bool) -> Program:
    model = models.Encoder(8, 10, 8, depth=3, norm_first=False, dropout=0.0)
    task = data.digits(8, 8)
    optimizer = Adam(model.parameters(), lr=2e-2 if fault else 2e-3)
    scheduler = None if fault else LambdaLR(optimizer, lambda i: min(1.0, (i + 1) / 30))
    loss = mean_loss(model, task.x, task.y, cross_entropy)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), loss, scheduler=scheduler)


@sick(TOO_LARGE, "oscillating-loss", steps=250, by=100, bound=0.5)
def momentum_of_099_at_a_large_rate(fault: bool) -> Program:
    model = models.mlp(64, 64, 64, 10)
    task = data.digits()
    optimizer = SGD(model.parameters(), lr=0.3 if fault else 0.03, momentum=0.99 if fault else 0.9)
    return supervised(model, optimizer, task, criterion, mean_loss(model, task.x, task.y, cross_entropy))


@sick(TOO_LARGE, "diverging-loss", steps=150, by=50, bound=0.7)
def linear_regression_that_diverges(fault: bool) -> Program:
    model = nn.Linear(10, 1)
    task = data.diabetes()
    optimizer = SGD(model.parameters(), lr=0.35 if fault else 0.02)
    return supervised(model, optimizer, task, nn.MSELoss(), mean_loss(model, task.x, task.y, F.mse_loss), validate=True)


@sick("summed-loss", TOO_LARGE, "exploding-gradient", steps=200, by=60, bound=0.4)
def loss_summed_over_the_batch(fault: bool) -> Program:
    model = models.mlp(10, 32, 32, 1)
    task = data.friedman()
    optimizer = SGD(model.parameters(), lr=0.03)
    loss_function = nn.MSELoss(reduction="sum" if fault else "mean")
    return supervised(model, optimizer, task, loss_function, mean_loss(model, task.x, task.y, F.mse_loss), batch=64)


@sick(TOO_LARGE, "saturated-units", steps=200, by=60, bound=0.5)
def lstm_at_a_rate_for_sgd(fault: bool) -> Program:
    model = models.Recurrent(nn.LSTM, 8, 48, 10)
    task = data.digits(8, 8)
    optimizer = Adam(model.parameters(), lr=0.3 if fault else 5e-3)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), mean_loss(model, task.x, task.y, cross_entropy))


@sick(TOO_LARGE, "diverging-loss", steps=300, by=200, bound=0.3)
def warm_up_without_an_end(fault: bool) -> Program:
    model = models.mlp(64, 64, 64, 10)
    task = data.digits()
    optimizer = SGD(model.parameters(), lr=0.1)
    scheduler = LambdaLR(optimizer, lambda i: (i + 1) / 10 if fault else min(1.0, (i + 1) / 10))
    loss = mean_loss(model, task.x, task.y, cross_entropy)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), loss, scheduler=scheduler)


@sick(TOO_LARGE, steps=200, by=60, bound=0.1)
def fine_tuning_that_forgets(fault: bool) -> Program:
    """A network that was trained on most digits is trained on, at a rate that destroys what it knew."""
    model = models.mlp(64, 64, 64, 10)
    task = data.digits()
    first = Adam(model.parameters(), lr=3e-3)
    for inputs, targets in (batch for batch, _ in zip(data.batches(task.x, task.y, 64), range(150), strict=False)):
        first.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        first.step()
    optimizer = Adam(model.parameters(), lr=0.1 if fault else 1e-4)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), errors(model, task.x, task.y), validate=True)


@sick(TOO_SMALL, "weights-not-updated", steps=200, by=60, bound=0.15, layers=("0", "2"))
def backbone_nearly_frozen(fault: bool) -> Program:
    model = models.mlp(64, 16, 16, 10, activation=nn.Tanh)
    task = data.digits()
    early = [*model[0].parameters(), *model[2].parameters()]
    groups: Any = [{"params": early, "lr": 1e-7 if fault else 5e-3}, {"params": model[4].parameters()}]
    optimizer = Adam(groups, lr=5e-3)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), errors(model, task.x, task.y))

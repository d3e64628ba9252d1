"""Weights that the optimizer does not move."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import LambdaLR

from tests.clinic import data, models
from tests.clinic.case import Program, sick
from tests.clinic.loops import cross_entropy, errors, mean_loss, supervised


@sick("weights-not-updated", steps=130, by=50, bound=0.4)
def optimizer_of_an_older_copy(fault: bool) -> Program:
    model = models.mlp(64, 64, 10)
    optimizer = SGD(model.parameters(), lr=0.03, momentum=0.9)
    if fault:
        model = copy.deepcopy(model)
    task = data.digits()
    return supervised(
        model, optimizer, task, nn.CrossEntropyLoss(), mean_loss(model, task.x, task.y, cross_entropy), validate=True
    )


@sick("weights-not-updated", steps=350, by=50, bound=0.1, layers=("head",))
def head_replaced_after_the_optimizer(fault: bool) -> Program:
    model = models.Recurrent(nn.LSTM, 8, 16, 100)
    head = nn.Linear(16, 10)
    if not fault:
        model.head = head
    optimizer = Adam(model.recurrent.parameters() if fault else model.parameters(), lr=3e-3)
    if fault:
        model.head = head  # the optimizer holds the old one's weights, if any
    task = data.digits(8, 8)
    return supervised(model, optimizer, task, lambda p, t: F.cross_entropy(p, t), errors(model, task.x, task.y))


@sick("weights-not-updated", steps=150, by=75, bound=0.9)
def warm_up_that_stays_at_zero(fault: bool) -> Program:
    model = models.Encoder(8, 10, 8)
    optimizer = Adam(model.parameters(), lr=3e-3)
    scheduler = LambdaLR(optimizer, lambda i: float(i // 5000) if fault else min(1.0, (i + 1) / 20))
    task = data.digits(8, 8)
    loss = mean_loss(model, task.x, task.y, cross_entropy)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), loss, scheduler=scheduler)


@sick("weights-not-updated", "no-gradient", steps=300, by=50, bound=0.14)
def list_of_unregistered_layers(fault: bool) -> Program:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(10, 16)
            layers = [nn.Linear(16, 16) for _ in range(2)]
            self.hidden = layers if fault else nn.ModuleList(layers)
            self.head = nn.Linear(16, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.first(x))
            for layer in self.hidden:
                x = torch.relu(layer(x))
            out: Tensor = self.head(x)
            return out

    model = Network()
    task = data.friedman()
    optimizer = Adam(model.parameters(), lr=3e-3)
    return supervised(model, optimizer, task, nn.MSELoss(), mean_loss(model, task.x, task.y, F.mse_loss))


@sick("weights-not-updated", steps=200, by=100, bound=0.4)
def step_never_called(fault: bool) -> Program:
    model = models.mlp(64, 32, 10)
    task = data.digits()
    loader = data.batches(task.x, task.y, 32)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(i: int) -> None:
        inputs, targets = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        if not fault:
            optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, task.x, task.y, cross_entropy))


@sick("weights-not-updated", steps=200, by=50, bound=0.31)
def encoder_left_out_of_the_optimizer(fault: bool) -> Program:
    """Two parameter groups by name, for decay and none; the encoder's matrices fall between them."""
    model = models.Encoder(8, 10, 8, dropout=0.0)
    decayed = [p for n, p in model.named_parameters() if p.ndim > 1 and (not fault or "encoder" not in n)]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups: Any = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    optimizer = AdamW(groups, lr=3e-3)
    task = data.digits(8, 8)
    return supervised(model, optimizer, task, cross_entropy, mean_loss(model, task.x, task.y, cross_entropy))

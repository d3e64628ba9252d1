"""Activations at the output that the loss, or the targets, do not want."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import cross_entropy as criterion
from torch.optim import SGD, Adam

from tests.clinic import data, models
from tests.clinic.case import Program, sick
from tests.clinic.data import Data
from tests.clinic.loops import cross_entropy, errors, mean_loss, supervised


@sick("redundant-softmax", steps=250, by=5, bound=0.15, layers=("4", "5"))
def softmax_before_cross_entropy(fault: bool) -> Program:
    model = models.mlp(64, 64, 64, 10)
    if fault:
        model.append(nn.Softmax(dim=1))
    task = data.digits()
    optimizer = SGD(model.parameters(), lr=0.1)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), errors(model, task.x, task.y))


@sick("redundant-softmax", steps=150, by=5, bound=0.1)
def softmax_in_forward(fault: bool) -> Program:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = models.cnn((8, 16), norm=False)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.body(x)
            return F.softmax(logits, dim=-1) if fault else logits

    model = Classifier()
    task = data.digits(1, 8, 8)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    return supervised(model, optimizer, task, criterion, errors(model, task.x, task.y))


@sick("redundant-softmax", "wrong-output-activation", steps=300, by=5, bound=0.5)
def sigmoid_before_loss_with_logits(fault: bool) -> Program:
    model = models.mlp(20, 32, 8)
    if fault:
        model.append(nn.Sigmoid())
    task = data.multilabel()
    optimizer = Adam(model.parameters(), lr=3e-3)

    def loss() -> float:
        with torch.no_grad():
            chances = model(task.x) if isinstance(model[-1], nn.Sigmoid) else model(task.x).sigmoid()
            return float(F.binary_cross_entropy(chances, task.y))

    return supervised(model, optimizer, task, nn.BCEWithLogitsLoss(), loss)


@sick("redundant-softmax", steps=150, by=5, bound=4.2)
def softmax_over_the_vocabulary(fault: bool) -> Program:
    class LanguageModel(models.RecurrentLanguageModel):
        def forward(self, tokens: Tensor) -> Tensor:
            logits = super().forward(tokens)
            return logits.softmax(-1) if fault else logits

    model = LanguageModel(nn.GRU, len(data.alphabet()), 48)
    task = data.text(24)
    optimizer = Adam(model.parameters(), lr=1e-2)

    def surprise(p: Tensor, t: Tensor) -> Tensor:
        chances = p if bool((p >= 0).all()) else p.softmax(-1)
        return -chances.gather(-1, t.unsqueeze(-1)).clamp_min(1e-9).log().mean()

    return supervised(
        model, optimizer, task, cross_entropy, mean_loss(model, task.x_val, task.y_val, surprise), batch=16
    )


@sick("wrong-output-activation", steps=200, by=5, bound=0.2, layers=("4", "5"))
def relu_on_logits(fault: bool) -> Program:
    model = models.mlp(64, 64, 64, 10)
    if fault:
        model.append(nn.ReLU())
    task = data.digits()
    optimizer = Adam(model.parameters(), lr=1e-2)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), mean_loss(model, task.x, task.y, cross_entropy))


@sick("wrong-output-activation", "redundant-softmax", steps=250, by=5, bound=0.4)
def sigmoid_on_logits(fault: bool) -> Program:
    model = models.Recurrent(nn.GRU, 8, 48, 10)
    if fault:
        model.head = nn.Sequential(model.head, nn.Sigmoid())
    task = data.digits(8, 8)
    optimizer = Adam(model.parameters(), lr=5e-3)
    return supervised(
        model, optimizer, task, lambda p, t: F.cross_entropy(p, t), mean_loss(model, task.x, task.y, cross_entropy)
    )


@sick("wrong-output-activation", steps=300, by=5, bound=0.4, layers=("2", "3"))
def sigmoid_on_a_regression(fault: bool) -> Program:
    model = models.mlp(10, 32, 1)
    if fault:
        model.append(nn.Sigmoid())
    task = data.friedman()
    optimizer = Adam(model.parameters(), lr=5e-3)
    return supervised(model, optimizer, task, nn.MSELoss(), mean_loss(model, task.x, task.y, F.mse_loss))


@sick("wrong-output-activation", "dead-units", steps=300, by=5, bound=0.081)
def relu_on_a_regression(fault: bool) -> Program:
    class Forecaster(models.Recurrent):
        def forward(self, x: Tensor) -> Tensor:
            answer = super().forward(x)
            return F.relu(answer) if fault else answer

    model = Forecaster(nn.LSTM, 1, 24, 1)
    task = data.waves()
    optimizer = Adam(model.parameters(), lr=5e-3)
    return supervised(model, optimizer, task, nn.MSELoss(), mean_loss(model, task.x, task.y, F.mse_loss))


@sick("wrong-output-activation", "unnormalized-target", steps=250, by=5, bound=0.66)
def tanh_on_targets_beyond_one(fault: bool) -> Program:
    model = models.mlp(10, 32, 32, 1)
    if fault:
        model.append(nn.Tanh())
    task = data.friedman()
    task = task._replace(y=1.5 * task.y + 2)

    optimizer = Adam(model.parameters(), lr=5e-3)
    return supervised(model, optimizer, task, nn.L1Loss(), mean_loss(model, task.x, task.y, F.l1_loss))


@sick("wrong-output-activation", steps=300, by=5, bound=0.4, layers=("6", "7"))
def sigmoid_on_standardised_pixels(fault: bool) -> Program:
    model = models.mlp(64, 48, 16, 48, 64)
    if fault:
        model.append(nn.Sigmoid())  # of a tutorial whose pixels lie between 0 and 1
    x = data.digits().x
    images = Data(x, x, x, x)
    optimizer = Adam(model.parameters(), lr=3e-3)
    return supervised(model, optimizer, images, nn.MSELoss(), mean_loss(model, x, x, F.mse_loss))


@sick("constant-output", "wrong-output-activation", steps=200, by=5, bound=0.2, layers=("2", "3"))
def softmax_over_one_unit(fault: bool) -> Program:
    model = models.mlp(30, 16, 1)
    model.append(nn.Softmax(dim=1) if fault else nn.Sigmoid())
    task = data.table("breast_cancer")
    task = Data(task.x, task.y.float().unsqueeze(1), task.x_val, task.y_val.float().unsqueeze(1))
    optimizer = Adam(model.parameters(), lr=3e-3)
    loss = mean_loss(model, task.x, task.y, F.binary_cross_entropy)
    return supervised(model, optimizer, task, nn.BCELoss(), loss)


@sick("constant-output", "wrong-output-activation", steps=200, by=5, bound=0.3)
def softmax_over_one_unit_with_squares(fault: bool) -> Program:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = models.mlp(2, 32, 32, 1)

        def forward(self, x: Tensor) -> Tensor:
            logit: Tensor = self.body(x)
            return F.softmax(logit, dim=-1) if fault else torch.sigmoid(logit)

    model = Classifier()
    task = data.moons()
    task = Data(task.x, task.y.float().unsqueeze(1), task.x_val, task.y_val.float().unsqueeze(1))
    optimizer = Adam(model.parameters(), lr=1e-2)
    return supervised(
        model, optimizer, task, nn.MSELoss(), mean_loss(model, task.x, task.y, lambda p, t: (p - t).abs().mean())
    )


@sick("constant-output", "wrong-output-activation", "redundant-softmax", steps=250, by=5, bound=0.04)
def softmax_over_the_batch(fault: bool) -> Program:
    model = models.mlp(64, 64, 10)
    task = data.digits()
    loader = data.batches(task.x, task.y, 32)
    optimizer = Adam(model.parameters(), lr=2e-3)

    def step(i: int) -> None:
        inputs, targets = next(loader)
        chances = model(inputs).softmax(0 if fault else 1)
        loss = -(chances[torch.arange(len(targets)), targets] + 1e-9).log().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, errors(model, task.x, task.y))

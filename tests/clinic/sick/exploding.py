"""Gradients that grow on their way back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam

from tests.clinic import data, models
from tests.clinic.case import Program, sick
from tests.clinic.loops import cross_entropy, mean_loss, supervised


@sick("exploding-gradient", "poor-initialization", steps=300, by=50, bound=0.7)
def relu_rnn_with_growing_state(fault: bool) -> Program:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent = nn.RNN(2, 32, nonlinearity="relu", batch_first=True)
            self.head = nn.Linear(32, 1)
            identity = torch.eye(32)
            self.recurrent.weight_hh_l0.data = 2 * nn.init.orthogonal_(torch.empty(32, 32)) if fault else identity

        def forward(self, x: Tensor) -> Tensor:
            states, _ = self.recurrent(x)
            out: Tensor = self.head(states[:, -1])
            return out

    model = Reader()
    task = data.adding(length=20)
    optimizer = Adam(model.parameters(), lr=3e-3)
    return supervised(model, optimizer, task, nn.MSELoss(), mean_loss(model, task.x, task.y, F.mse_loss))


@sick(
    "exploding-gradient",
    "poor-initialization",
    steps=150,
    by=50,
    bound=0.5,
    layers=tuple(f"blocks.{place}{part}" for place in range(30) for part in ("", ".0", ".2")),
)
def thirty_residual_blocks_without_norm(fault: bool) -> Program:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(64, 48)
            self.blocks = nn.ModuleList(models.mlp(48, 48, 48) for _ in range(30))
            self.head = nn.Linear(48, 10)
            models.initialise(self, nn.init.kaiming_normal_)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for block in self.blocks:
                x = x + (1.0 if fault else 30**-0.5) * block(x)
            out: Tensor = self.head(x)
            return out

    model = Network()
    task = data.digits()
    optimizer = SGD(model.parameters(), lr=0.01)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), mean_loss(model, task.x, task.y, cross_entropy))


@sick("exploding-gradient", "learning-rate-too-large", steps=200, by=50, bound=2.63)
def language_model_without_clipping(fault: bool) -> Program:
    """As in torch's example of a word language model: a huge learning rate that only clipping makes possible."""
    model = models.RecurrentLanguageModel(nn.RNN, len(data.alphabet()), 48)
    task = data.text(32)
    loader = data.batches(task.x, task.y, 16)
    optimizer = SGD(model.parameters(), lr=6.0)

    def step(i: int) -> None:
        tokens, targets = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten()).backward()
        if not fault:
            nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, task.x_val, task.y_val, cross_entropy))


@sick("exploding-gradient", "learning-rate-too-large", steps=200, by=50, bound=0.6)
def product_of_features(fault: bool) -> Program:
    """A polynomial network: powers of the hidden units grow without bound, and so do their gradients."""

    class Polynomial(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + x**3 if fault else F.silu(x)

    model = models.mlp(10, 32, 32, 32, 1, activation=Polynomial)
    models.initialise(model, nn.init.xavier_normal_)
    task = data.friedman()
    optimizer = SGD(model.parameters(), lr=0.02)
    return supervised(model, optimizer, task, nn.MSELoss(), mean_loss(model, task.x, task.y, F.mse_loss))

"""Eight training problems of the clinic's data and models, for the learning-rate finder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.utils.data import DataLoader, TensorDataset

from tests.clinic import data, models
from tests.clinic.loops import cross_entropy

LossFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """``make`` builds model and data after the seed was set; ``rates`` are the ends of the grid."""

    name: str
    make: Callable[[], tuple[nn.Module, data.Data]]
    optimizer: Callable[..., Optimizer]
    loss_fn: LossFunction
    rates: tuple[float, float]
    batch: int = 32
    steps: int = 200

    def build(self, seed: int, rate: float = 1e-3) -> tuple[nn.Module, Optimizer, DataLoader[tuple[Tensor, ...]]]:
        torch.manual_seed(seed)
        model, task = self.make()
        loader = DataLoader(TensorDataset(task.x, task.y), self.batch, shuffle=True, drop_last=True)
        return model, self.optimizer(model.parameters(), lr=rate), loader


def _momentum(parameters: object, lr: float) -> Optimizer:
    return SGD(parameters, lr=lr, momentum=0.9)  # type: ignore[arg-type]


def _pixels() -> data.Data:
    x = data.digits().x
    return data.Data(x, x, x, x)


SGD_RATES, ADAM_RATES = (1e-4, 10.0), (1e-5, 1.0)
PROBLEMS = (
    Problem("MLP, digits, SGD", lambda: (models.mlp(64, 64, 64, 10), data.digits()), SGD, F.cross_entropy, SGD_RATES),
    Problem(
        "CNN with BatchNorm, digits, momentum",
        lambda: (models.cnn(), data.digits(1, 8, 8)),
        _momentum,
        F.cross_entropy,
        SGD_RATES,
        steps=100,
    ),
    Problem("MLP, friedman, Adam", lambda: (models.mlp(10, 32, 32, 1), data.friedman()), Adam, F.mse_loss, ADAM_RATES),
    Problem(
        "MLP, spirals, Adam", lambda: (models.mlp(2, 48, 48, 3), data.spirals()), Adam, F.cross_entropy, ADAM_RATES
    ),
    Problem(
        "GRU, rows of digits, Adam",
        lambda: (models.Recurrent(nn.GRU, 8, 48, 10), data.digits(8, 8)),
        Adam,
        F.cross_entropy,
        ADAM_RATES,
    ),
    Problem(
        "transformer encoder, rows of digits, AdamW",
        lambda: (models.Encoder(8, 10, 8, dropout=0.0), data.digits(8, 8)),
        AdamW,
        F.cross_entropy,
        ADAM_RATES,
    ),
    Problem(
        "autoencoder, digits, Adam", lambda: (models.mlp(64, 48, 16, 48, 64), _pixels()), Adam, F.mse_loss, ADAM_RATES
    ),
    Problem(
        "GRU language model, text, Adam",
        lambda: (models.RecurrentLanguageModel(nn.GRU, len(data.alphabet()), 48), data.text(24)),
        Adam,
        cross_entropy,
        ADAM_RATES,
        batch=16,
        steps=150,
    ),
)


def train(problem: Problem, seed: int, rate: float) -> tuple[float, float]:
    """Loss on all training data before and after training with that rate; a lost run ends at the loss it began with."""
    model, optimizer, loader = problem.build(seed, rate)
    x, y = loader.dataset.tensors  # type: ignore[attr-defined]
    before = _loss(problem, model, x, y)
    step = 0
    while step < problem.steps:
        for inputs, targets in loader:
            optimizer.zero_grad()
            problem.loss_fn(model(inputs), targets).backward()
            optimizer.step()
            step += 1
            if step == problem.steps:
                break
    after = _loss(problem, model, x, y)
    return before, min(after, before) if after == after else before


def _loss(problem: Problem, model: nn.Module, x: Tensor, y: Tensor) -> float:
    model.eval()
    with torch.no_grad():
        loss = float(problem.loss_fn(model(x[:1500]), y[:1500]))
    model.train()
    return loss

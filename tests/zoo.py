"""Healthy training runs on real data, on which netdoctor has to stay silent: ``python -m tests.zoo`` prints them all.

Every run is what a careful user would write: standardised data, usual initialisation and learning rate, a validation
pass after each epoch, and an end before it overfits.
"""

from __future__ import annotations

import functools
import itertools
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from sklearn import datasets
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.utils.data import DataLoader, TensorDataset

LossFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Training:
    """All that a training loop needs."""

    model: nn.Module
    data: tuple[Tensor, Tensor, Tensor, Tensor]  # inputs and targets to train on, then those to validate on
    loss_function: LossFunction
    optimizer: Optimizer
    batch: int = 64


@dataclass(frozen=True)
class Outcome:
    """What came out of a run: the loss of each step, the validation loss of each epoch, what `watch` returned."""

    losses: list[float]
    val_losses: list[float]
    monitor: Any
    model: nn.Module


@dataclass(frozen=True)
class Animal:
    """One healthy run."""

    name: str
    make: Callable[[], Training]  # after the seed is set
    steps: int

    def run(
        self,
        seed: int = 0,
        watch: Callable[[nn.Module], Any] | None = None,
        each_step: Callable[[Any], None] | None = None,
    ) -> Outcome:
        """Train once.

        Args:
            seed: Of the weights, the split and the order of the batches.
            watch: Called with the model before the first step; what it returns is the outcome's ``monitor``.
            each_step: Called with the monitor after every step.
        """
        torch.manual_seed(seed)
        training = self.make()
        model, optimizer, loss_function = training.model, training.optimizer, training.loss_function
        monitor = watch(model) if watch else None
        x, y, x_val, y_val = training.data
        loader = DataLoader(TensorDataset(x, y), training.batch, shuffle=True, drop_last=True)
        losses: list[float] = []
        val_losses: list[float] = []
        while len(losses) < self.steps:
            model.train()
            for inputs, targets in loader:
                optimizer.zero_grad()
                loss = loss_function(model(inputs), targets)
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
                if each_step is not None:
                    each_step(monitor)
                if len(losses) == self.steps:
                    break
            model.eval()
            with torch.no_grad():
                val_losses.append(loss_function(model(x_val), y_val).item())
        return Outcome(losses, val_losses, monitor, model)


# Data. The split follows the seed.


@functools.cache
def _load(name: str) -> tuple[Tensor, Tensor]:
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y)


def split(x: Tensor, y: Tensor, train: float = 0.8) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    order = torch.randperm(len(x))
    cut = int(train * len(x))
    return x[order[:cut]], y[order[:cut]], x[order[cut:]], y[order[cut:]]


def digits(shape: tuple[int, ...] = (64,)) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """8x8 images of handwritten digits, scaled to mean 0 and variance 1 over all pixels."""
    x, y = _load("digits")
    return split(((x - x.mean()) / x.std()).reshape(-1, *shape), y)


def standardised(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A table of scikit-learn's, each feature scaled to mean 0 and variance 1 over the training part."""
    x, y, x_val, y_val = split(*_load(name))
    mean, std = x.mean(0), x.std(0)
    return (x - mean) / std, y, (x_val - mean) / std, y_val


# Models.


def mlp(widths: Iterable[int], activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1])


class Residual(nn.Module):
    """Two convolutions with BatchNorm and a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(x + y)


class Recurrent(nn.Module):
    """Reads an image row by row, classifies from the last state."""

    def __init__(self, kind: type[nn.GRU] | type[nn.LSTM]) -> None:
        super().__init__()
        self.recurrent = kind(8, 48, batch_first=True)
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.recurrent(x)
        out: Tensor = self.head(states[:, -1])
        return out


class Transformer(nn.Module):
    """A pre-norm encoder over the rows of an image."""

    def __init__(self, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.positions = nn.Parameter(0.02 * torch.randn(8, width))
        block = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(block, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.encoder(self.embed(x) + self.positions)).mean(1))
        return out


def cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(512, 10),
    )


def residual_cnn() -> nn.Sequential:
    stem = (nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    head = (nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10))
    return nn.Sequential(*stem, Residual(16), nn.MaxPool2d(2), Residual(16), Residual(16), *head)


# Runs.


def _classify(
    model: nn.Module, shape: tuple[int, ...], optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
) -> Training:
    return Training(model, digits(shape), F.cross_entropy, optimizer(model.parameters()))


def digits_mlp() -> Training:
    return _classify(mlp((64, 64, 32, 10)), (64,), lambda p: Adam(p, lr=1e-3))


def digits_tanh_mlp() -> Training:
    return _classify(mlp((64, 64, 32, 10), nn.Tanh), (64,), lambda p: SGD(p, lr=0.05, momentum=0.9))


def digits_cnn() -> Training:
    return _classify(cnn(), (1, 8, 8), lambda p: Adam(p, lr=2e-3))


def digits_residual_cnn() -> Training:
    return _classify(residual_cnn(), (1, 8, 8), lambda p: SGD(p, lr=0.05, momentum=0.9, weight_decay=5e-4))


def digits_transformer() -> Training:
    return _classify(Transformer(), (8, 8), lambda p: AdamW(p, lr=3e-3))


def digits_gru() -> Training:
    return _classify(Recurrent(nn.GRU), (8, 8), lambda p: Adam(p, lr=3e-3))


def digits_lstm() -> Training:
    return _classify(Recurrent(nn.LSTM), (8, 8), lambda p: Adam(p, lr=5e-3))


def digits_autoencoder() -> Training:
    x, _, x_val, _ = digits()
    model = mlp((64, 48, 12, 48, 64), nn.GELU)
    return Training(model, (x, x, x_val, x_val), F.mse_loss, Adam(model.parameters(), lr=2e-3))


def wine_mlp() -> Training:
    model = mlp((13, 16, 3))
    optimizer = Adam(model.parameters(), lr=2e-3)
    return Training(model, standardised("wine"), nn.CrossEntropyLoss(label_smoothing=0.1), optimizer, batch=32)


def breast_cancer_logistic() -> Training:
    x, y, x_val, y_val = standardised("breast_cancer")
    model = nn.Sequential(nn.Linear(30, 1), nn.Flatten(0))
    optimizer = SGD(model.parameters(), lr=0.1)
    return Training(model, (x, y.float(), x_val, y_val.float()), F.binary_cross_entropy_with_logits, optimizer)


def breast_cancer_mlp() -> Training:
    x, y, x_val, y_val = standardised("breast_cancer")
    model = nn.Sequential(mlp((30, 16, 1)), nn.Flatten(0))
    optimizer = AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    return Training(model, (x, y.float(), x_val, y_val.float()), nn.BCEWithLogitsLoss(), optimizer)


def diabetes_regression() -> Training:
    x, y, x_val, y_val = standardised("diabetes")
    mean, std = y.mean(), y.std()
    y, y_val = ((t - mean).unsqueeze(1) / std for t in (y, y_val))
    model = mlp((10, 16, 1))
    optimizer = SGD(model.parameters(), lr=0.02)
    return Training(model, (x, y.float(), x_val, y_val.float()), nn.MSELoss(), optimizer)


ZOO: tuple[Animal, ...] = (
    Animal("digits mlp", digits_mlp, 300),
    Animal("digits tanh mlp", digits_tanh_mlp, 300),
    Animal("digits cnn", digits_cnn, 200),
    Animal("digits residual cnn", digits_residual_cnn, 150),
    Animal("digits transformer", digits_transformer, 160),
    Animal("digits gru", digits_gru, 300),
    Animal("digits lstm", digits_lstm, 300),
    Animal("digits autoencoder", digits_autoencoder, 300),
    Animal("wine mlp", wine_mlp, 150),
    Animal("breast cancer logistic", breast_cancer_logistic, 300),
    Animal("breast cancer mlp", breast_cancer_mlp, 200),
    Animal("diabetes regression", diabetes_regression, 200),
)


def main(seeds: int = 3) -> int:
    """Print every run with the findings of a default `watch`; returns how many of them are false alarms."""
    from netdoctor import Severity, watch

    torch.set_num_threads(1)
    print(f"{'run':24} seed  first loss   last  best validation   last  seconds  overhead")
    alarms = 0
    for animal, seed in itertools.product(ZOO, range(seeds)):
        start = time.perf_counter()
        outcome = animal.run(seed, functools.partial(watch, reporters=[]))
        seconds = time.perf_counter() - start
        outcome.monitor.close()
        found = outcome.monitor.findings
        alarms += sum(finding.severity >= Severity.WARNING for finding in found)
        losses, val_losses = outcome.losses, outcome.val_losses
        print(
            f"{animal.name:24} {seed:4} {losses[0]:11.3f} {sum(losses[-10:]) / 10:6.3f}"
            f" {min(val_losses):16.3f} {val_losses[-1]:6.3f} {seconds:8.1f} {outcome.monitor.overhead:9.1%}  "
            + ("; ".join(f"{f.severity.name} {f.rule} at step {f.step}: {f.message}" for f in found) or "healthy")
        )
    print(f"{alarms} false alarms in {len(ZOO) * seeds} runs")
    return alarms


if __name__ == "__main__":
    sys.exit(main() > 0)

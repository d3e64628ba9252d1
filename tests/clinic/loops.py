"""The usual training loop, for cases whose fault is elsewhere, and what tells whether training worked."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tests.clinic.case import Program
from tests.clinic.data import Data, batches

LossFunction = Callable[[Tensor, Tensor], Tensor]


def supervised(
    model: nn.Module,
    optimizer: Optimizer,
    data: Data,
    loss_function: LossFunction,
    loss: Callable[[], float],
    batch: int = 32,
    validate: bool = False,
    scheduler: LRScheduler | None = None,
) -> Program:
    """Epochs over shuffled data, ``validate`` after each, ``scheduler`` stepped with each batch."""
    loader = batches(data.x, data.y, batch)
    epoch = len(data.x) // batch

    def step(i: int) -> None:
        inputs, targets = next(loader)
        optimizer.zero_grad()
        loss_function(model(inputs), targets).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        if validate and i % epoch == 0:
            model.eval()
            with torch.no_grad():
                loss_function(model(data.x_val), data.y_val)
            model.train()

    return Program(model, optimizer, step, loss)


def cross_entropy(p: Tensor, t: Tensor) -> Tensor:
    """As ``F.cross_entropy`` in the user's own loop; over all tokens where there are several."""
    return F.cross_entropy(p.flatten(0, -2), t.flatten())


# What tells whether training worked: in evaluation mode, over the data given.


def mean_loss(model: nn.Module, x: Tensor, y: Tensor, loss_function: LossFunction) -> Callable[[], float]:
    def loss() -> float:
        model.eval()
        with torch.no_grad():
            return float(loss_function(model(x), y))

    return loss


def errors(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], float]:
    """Share of wrong answers: the same with and without a softmax at the end. One unit answers by its sign."""

    def loss() -> float:
        model.eval()
        with torch.no_grad():
            output = model(x)
            answer = output.argmax(-1) if output.ndim > y.ndim and output.shape[-1] > 1 else output.reshape(y.shape) > 0
            return float((answer != y).float().mean())

    return loss

"""Trains a model watched and unwatched, and compares everything that the training leaves."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from netdoctor import Monitor, watch
from netdoctor.probes import losses, optimizers

silent = functools.partial(watch, reporters=[])
WATCHES = {"by default": silent, "every step": functools.partial(silent, every=1)}
each_watch = pytest.mark.parametrize("watching", WATCHES.values(), ids=WATCHES)


@contextmanager
def nothing_left() -> Iterator[None]:
    """One thread, for bitwise equality; nothing of netdoctor may be left installed."""
    others: list[Any] = [*losses._listeners, *optimizers._listeners]  # left by a test before
    for listener in others:
        losses.unlisten(listener)
        optimizers.unlisten(listener)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    if losses._listeners or optimizers._listeners:
        gc.collect()
    left: list[Any] = [*losses._listeners, *optimizers._listeners]
    for listener in left:
        losses.unlisten(listener)  # so that one test's leak does not fail the others
        optimizers.unlisten(listener)
    assert left == []


# Models: everything that hooks are known to break.


class Rich(nn.Module):
    """A shared layer, tied weights, in-place ReLU, a buffer, and a dict that holds a dataclass and a tuple."""

    @dataclass
    class Output:
        logits: Tensor
        features: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 16)
        self.shared = nn.Linear(16, 16)
        self.tied = nn.Linear(16, 16)
        self.tied.weight = self.shared.weight
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(16, 4)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor) -> dict[str, Any]:
        x = self.relu(self.first(x))
        x = self.relu(self.shared(self.relu(self.shared(x))))
        x = F.relu(self.tied(x), inplace=True)
        return {"output": self.Output(self.head(x) * self.scale, x), "pair": (x, x.mean())}


class Sequence(nn.Module):
    """An LSTM over rows that returns its states, too."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 12, num_layers=2, dropout=0.2)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        states, last = self.lstm(x.reshape(-1, 3, 4).transpose(0, 1))
        return self.head(states[-1]), last


class Attention(nn.Module):
    """A transformer encoder with dropout over rows."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 16)
        block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(self.embed(x.reshape(-1, 3, 4))).mean(1))
        return out


class Checkpointed(nn.Module):
    """Its middle is computed again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 16)
        self.middle = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.1))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = checkpoint(self.middle, self.first(x), use_reentrant=False)
        out: Tensor = self.head(y)
        return out


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 3, 4)),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(96, 4),
    )


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": mlp,
    "cnn": cnn,
    "lstm": Sequence,
    "transformer": Attention,
    "rich": Rich,
    "checkpointed": Checkpointed,
}


def logits(output: Any) -> Tensor:
    if isinstance(output, dict):
        output = output["output"].logits
    result: Tensor = output[0] if isinstance(output, tuple) else output
    return result


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> list[Tensor]:
    """Train on random batches; all outputs, losses and gradients."""
    seen = []
    for _ in range(count):
        x, y = torch.randn(16, 12), torch.randint(0, 4, (16,))
        output = logits(model(x))
        loss = F.cross_entropy(output, y) + 0.1 * logits(model(x.flip(0))).square().mean()  # two passes each step
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        seen += [output.detach(), loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
        optimizer.step()
    return seen


def train(make: Callable[[], nn.Module], watching: Callable[..., Any] | None = None, count: int = 20) -> list[Tensor]:
    """All that a training leaves: outputs, losses, gradients, weights, buffers, the state of the random numbers."""
    torch.manual_seed(0)
    model = make()
    monitor = watching(model) if watching else None
    seen = steps(model, torch.optim.Adam(model.parameters(), lr=1e-2), count)
    model.eval()
    with torch.no_grad():
        seen.append(F.cross_entropy(logits(model(torch.randn(8, 12))), torch.randint(0, 4, (8,))))
    if monitor is not None:
        monitor.close()
    return [*seen, *(t.detach() for t in model.state_dict().values()), torch.get_rng_state()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def faults(monitor: Monitor) -> list[str]:
    """What is said to have failed or not to have been seen."""
    return [skipped.reason for skipped in monitor.diagnose().skipped if not skipped.rule]

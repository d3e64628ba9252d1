"""Small models, new or half-trained, and their whole state, to be compared bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

import netdoctor
from netdoctor.facts import Facts

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks")
STEP_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")


class Tagger(nn.Module):
    """A recurrent layer, attention and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(6, 8, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.recurrent(x)
        out: Tensor = self.head((states + self.attention(states, states, states)[0]).mean(1))
        return out


def mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 3), nn.Softmax(1)
    )


def cnn() -> nn.Sequential:
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2), nn.MaxPool2d(2))
    return nn.Sequential(body, nn.Flatten(), nn.Linear(4, 3))


class Reader(nn.Module):
    """A plain recurrent layer and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.RNN(6, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.recurrent(x)[0][:, -1])
        return out


def normed() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def half() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 3)).bfloat16()


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (16, 6)),
    "cnn": (cnn, (16, 1, 8, 8)),
    "tagger": (Tagger, (16, 5, 6)),
    "reader": (Reader, (16, 5, 6)),
    "normed": (normed, (16, 1, 8, 8)),
    "half": (half, (16, 6)),
}


@dataclass
class Patient:
    """A model with what trains it; ``facts`` as a monitor learned them."""

    model: nn.Module
    optimizer: Optimizer
    criterion: nn.Module
    x: Tensor
    y: Tensor
    facts: Facts

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.criterion(self.model(self.x), self.y).backward()
            self.optimizer.step()

    def loss(self) -> float:
        with torch.no_grad():
            return float(F.cross_entropy(self.model(self.x), self.y))

    def state(self) -> dict[str, Any]:
        """Everything that a treatment may touch, by value; modules and parameters by identity."""
        return {
            "tensors": {name: tensor.clone() for name, tensor in self.model.state_dict().items()},
            "trainable": {name: p.requires_grad for name, p in self.model.named_parameters()},
            "identities": {name: id(p) for name, p in self.model.named_parameters()},
            "modules": [(name, id(module), module.training) for name, module in self.model.named_modules()],
            "rates": [m.p for m in self.model.modules() if isinstance(m, nn.Dropout)],
            "momenta": [m.momentum for m in self.model.modules() if isinstance(m, nn.BatchNorm2d)],
            "hooks": [[list(getattr(m, kind)) for kind in HOOKS] for m in self.model.modules()],
            "groups": [
                {k: [id(p) for p in v] if k == "params" else _copied(v) for k, v in group.items()}
                for group in self.optimizer.param_groups
            ],
            "moments": {id(p): {k: _copied(v) for k, v in state.items()} for p, state in self.optimizer.state.items()},
            "step hooks": [list(getattr(self.optimizer, kind)) for kind in STEP_HOOKS],
            "criterion": {k: _copied(v) for k, v in vars(self.criterion).items() if k == "label_smoothing"},
            "class weights": _copied(self.criterion.weight),
        }


def patient(kind: str = "mlp", steps: int = 0, adam: bool = True) -> Patient:
    """A model of that kind after so many steps, with the same data and seed each time."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    make, shape = MODELS[kind]
    model = make()
    optimizer = Adam(model.parameters(), 1e-2) if adam else SGD(model.parameters(), 1e-2, momentum=0.9)
    x, y = torch.randn(shape).to(next(model.parameters()).dtype), torch.randint(3, (shape[0],))
    made = Patient(model, optimizer, nn.CrossEntropyLoss(), x, y, _facts(make(), x, y))
    made.train(steps)
    return made


def _facts(model: nn.Module, x: Tensor, y: Tensor) -> Facts:
    """Learned on a copy: the patient itself is as it was made."""
    with netdoctor.watch(model, reporters=[], rules=[]) as monitor:
        optimizer = SGD(model.parameters(), 0.0)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        return monitor.history.facts


def same(before: Any, after: Any) -> bool:
    """Equal, tensors bit for bit."""
    if isinstance(before, Tensor) or isinstance(after, Tensor):
        both = isinstance(before, Tensor) and isinstance(after, Tensor)
        return both and before.dtype == after.dtype and torch.equal(before, after)
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(same(before[key], after[key]) for key in before)
    if isinstance(before, (list, tuple)):
        return len(before) == len(after) and all(map(same, before, after))
    return bool(before == after)


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value

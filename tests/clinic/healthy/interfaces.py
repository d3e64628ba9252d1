"""Models and loops of unusual shape: what they take and return, who owns the loop."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import cross_entropy
from torch.optim import Adam, AdamW, Optimizer
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tests.clinic import data, models
from tests.clinic.case import Program, healthy
from tests.clinic.loops import mean_loss
from tests.clinic.turns import Loop, turns


@dataclass
class ClassifierOutput:
    loss: Tensor | None
    logits: Tensor


class ReturnsItsLoss(nn.Module):
    """As in transformers: given labels, the output holds the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.encoder = nn.GRU(32, 32, batch_first=True)
        self.classifier = nn.Linear(32, 10)

    def forward(self, input_values: Tensor, labels: Tensor | None = None) -> ClassifierOutput:
        states, _ = self.encoder(torch.tanh(self.embed(input_values)))
        logits = self.classifier(states.mean(1))
        return ClassifierOutput(None if labels is None else nn.CrossEntropyLoss()(logits, labels), logits)


class Rows(Dataset[dict[str, Tensor]]):
    """Samples as dictionaries."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_values": self.x[index], "labels": self.y[index]}


@healthy(steps=250, bound=0.77)
def model_that_returns_its_loss() -> Program:
    x, y, x_val, y_val = data.digits(8, 8)
    model = ReturnsItsLoss()
    optimizer = AdamW(model.parameters(), lr=5e-3)
    train_loader = DataLoader(Rows(x, y), batch_size=32, shuffle=True)
    eval_loader = DataLoader(Rows(x_val, y_val), batch_size=180)

    def train() -> Loop:
        for _ in range(6):
            model.train()
            for batch in train_loader:
                outputs = model(**batch)
                outputs.loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                yield
            model.eval()
            for batch in eval_loader:
                with torch.no_grad():
                    model(**batch)

    def loss() -> float:
        model.eval()
        with torch.no_grad():
            return float(model(x_val, y_val).loss)

    return Program(model, optimizer, turns(train()), loss)


class Heads(NamedTuple):
    logits: Tensor
    features: Tensor


class NamedOutputs(nn.Module):
    """Takes a dictionary, returns a named tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = nn.Linear(4, 16)
        self.kind = nn.Embedding(8, 8)
        self.head = models.mlp(24, 32, 2)

    def forward(self, batch: dict[str, Tensor]) -> Heads:
        features = torch.cat((F.relu(self.numbers(batch["numbers"])), self.kind(batch["kind"])), 1)
        return Heads(self.head(features), features)


def evaluate(model: nn.Module, batch: dict[str, Tensor], labels: Tensor) -> tuple[float, float]:
    model.eval()
    with torch.no_grad():
        logits = model(batch).logits
        loss = cross_entropy(logits, labels)  # imported by name
    model.train()
    return loss.item(), (logits.argmax(1) == labels).float().mean().item()


@healthy(steps=300, bound=0.31)
def dictionaries_in_named_tuples_out() -> Program:
    numbers, kind = torch.randn(2500, 4), torch.randint(8, (2500,))
    score = numbers[:, 0] + numbers[:, 1] * torch.linspace(-2, 2, 8)[kind]
    labels = (score + 0.3 * torch.randn(2500) > 0).long()
    whole = [{"numbers": numbers[part], "kind": kind[part]} for part in (slice(2000), slice(2000, None))]
    model = NamedOutputs()
    optimizer = Adam(model.parameters(), lr=5e-3)

    def train() -> Loop:
        for _ in range(10):
            for chosen in torch.randperm(2000).split(64):
                batch = {name: part[chosen] for name, part in whole[0].items()}
                loss = cross_entropy(model(batch).logits, labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                yield
            evaluate(model, whole[1], labels[2000:])

    return Program(model, optimizer, turns(train()), lambda: evaluate(model, whole[1], labels[2000:])[0])


class Trainer:
    """A loop in a class, with callbacks."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, loss_fn: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.model, self.optimizer, self.loss_fn = model, optimizer, loss_fn
        self.history: list[dict[str, float]] = []

    def run_batch(self, batch: list[Tensor]) -> float:
        inputs, targets = batch
        loss = self.loss_fn(self.model(inputs), targets)
        if self.model.training:
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return loss.item()

    def fit(self, train_loader: DataLoader[Any], val_loader: DataLoader[Any], epochs: int) -> Loop:
        for _ in range(epochs):
            self.model.train()
            losses = []
            for batch in train_loader:
                losses.append(self.run_batch(batch))
                yield
            with torch.no_grad():
                self.model.eval()
                val_losses = [self.run_batch(batch) for batch in val_loader]
            self.history.append({"loss": sum(losses) / len(losses), "val_loss": sum(val_losses) / len(val_losses)})


@healthy(steps=250, bound=0.64)
def trainer_class() -> Program:
    x, y, x_val, y_val = data.digits(1, 8, 8)
    model = models.cnn((8, 16), activation=nn.SiLU)
    trainer = Trainer(model, Adam(model.parameters(), lr=3e-3), nn.CrossEntropyLoss(label_smoothing=0.1))
    train_loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True, drop_last=True)
    val_loader = DataLoader(TensorDataset(x_val, y_val), batch_size=90)
    loop = trainer.fit(train_loader, val_loader, epochs=10)
    return Program(model, trainer.optimizer, turns(loop), mean_loss(model, x_val, y_val, cross_entropy))


@healthy(steps=200, bound=0.18)
def four_networks_at_once() -> Program:
    x, y, x_val, y_val = data.moons(1500)
    members = nn.ModuleList(models.mlp(2, 32, 32, 2, activation=nn.SiLU) for _ in range(4))
    optimizer = Adam(members.parameters(), lr=5e-3)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        points, labels = next(loader)
        optimizer.zero_grad()
        total = torch.zeros(())
        for member in members:
            total = total + cross_entropy(member(points), labels)
        total.backward()
        optimizer.step()

    def loss() -> float:
        skeleton = copy.deepcopy(members[0]).to("meta")
        weights, buffers = stack_module_state(list(members))
        with torch.no_grad():
            answers = vmap(lambda p, b: functional_call(skeleton, (p, b), (x_val,)))(weights, buffers)
        return cross_entropy(answers.mean(0), y_val).item()

    return Program(members, optimizer, step, loss)

"""Training that starts from what is there: starts for many tasks, locked towers, labels of its own, old data kept."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW

from tests.clinic.case import Program, healthy
from tests.clinic.data import batches, digits, table
from tests.clinic.loops import errors, mean_loss


@healthy(steps=120, bound=0.15)
def same_start_for_many_sines() -> Program:
    """Reptile: a copy learns one task for some steps, and the start is moved towards where it ended."""
    start = nn.Sequential(nn.Linear(1, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 1))
    outer = SGD(start.parameters(), lr=0.3)

    def task() -> tuple[Tensor, Tensor]:
        x = 6 * torch.rand(20, 1) - 3
        return x, (0.5 + torch.rand(())) * torch.sin(x + 0.8 * torch.rand(()))

    def adapted(x: Tensor, y: Tensor, turns: int = 6) -> nn.Module:
        net = copy.deepcopy(start)
        inner = SGD(net.parameters(), lr=0.05)
        for _ in range(turns):
            inner.zero_grad()
            F.mse_loss(net(x), y).backward()
            inner.step()
        return net

    def step(i: int) -> None:
        net = adapted(*task())
        for p, q in zip(start.parameters(), net.parameters(), strict=True):
            p.grad = p.detach() - q.detach()
        outer.step()

    def loss() -> float:
        total = 0.0
        for _ in range(10):
            x, y = task()
            net = adapted(x[:10], y[:10])
            with torch.no_grad():
                total += float(F.mse_loss(net(x[10:]), y[10:])) / 10
        return total

    return Program(start, outer, step, loss)


@healthy(steps=300, bound=0.15)
def own_labels_where_it_is_sure() -> Program:
    """A hundred labels; of the other images those count, from the hundredth step on, whose digit is beyond doubt."""
    x, y, *_ = digits()
    known = 150
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10))
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)

    def step(i: int) -> None:
        chosen = torch.randint(known, (32,))
        loss = F.cross_entropy(model(x[chosen] + 0.3 * torch.randn(32, 64)), y[chosen])
        if i > 100:
            images = x[known + torch.randint(len(x) - known, (64,))]
            with torch.no_grad():
                sure, label = model(images).softmax(1).max(1)
            noisy = model(images + 0.5 * torch.randn_like(images))
            loss = loss + (F.cross_entropy(noisy, label, reduction="none") * (sure > 0.95)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, errors(model, x, y))


def _trained(model: nn.Module, x: Tensor, y: Tensor, turns: int = 40) -> None:
    optimizer = Adam(model.parameters(), lr=5e-3)
    for _ in range(turns):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()


@healthy(steps=200, bound=0.45)
def captions_for_a_locked_tower_of_images() -> Program:
    """One tower has been trained before and stays as it is; the other learns to meet it."""
    x, y, *_ = digits()
    body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
    _trained(nn.Sequential(body, nn.ReLU(), nn.Linear(32, 10)), x, y)
    vocabulary = torch.randint(1, 50, (10, 6))

    class Locked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image = body.requires_grad_(False)
            self.words = nn.EmbeddingBag(50, 32, padding_idx=0)
            self.text = nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 32))
            self.log_scale = nn.Parameter(torch.tensor(math.log(8.0)))

        def forward(self, images: Tensor, captions: Tensor) -> Tensor:
            with torch.no_grad():
                left = F.normalize(self.image(images), dim=1)
            right = F.normalize(self.text(self.words(captions)), dim=1)
            return self.log_scale.exp() * left @ right.T

    model = Locked()
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    places = [(y == digit).nonzero().squeeze(1) for digit in range(10)]

    def contrast() -> Tensor:
        chosen = torch.stack([place[torch.randint(len(place), ())] for place in places])
        captions = vocabulary * (torch.rand(10, 6) < 0.8)
        captions[:, 0] = vocabulary[:, 0]
        logits = model(x[chosen], captions)
        return (F.cross_entropy(logits, torch.arange(10)) + F.cross_entropy(logits.T, torch.arange(10))) / 2

    def step(i: int) -> None:
        optimizer.zero_grad()
        contrast().backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return sum(float(contrast()) for _ in range(30)) / 30

    return Program(model, optimizer, step, loss)


@healthy(steps=300, bound=0.1)
def new_digits_among_the_old() -> Program:
    """At the half the digits from 5 on come in, with some of the old ones in each batch: the loss leaps, and falls."""
    x, y, *_ = digits()
    old, new = (y < 5).nonzero().squeeze(1), (y >= 5).nonzero().squeeze(1)
    model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = Adam(model.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()

    def step(i: int) -> None:
        chosen = old[torch.randint(len(old), (32,))]
        if i > 150:
            chosen = torch.cat((chosen[:16], new[torch.randint(len(new), (16,))]))
        optimizer.zero_grad()
        loss = criterion(model(x[chosen]), y[chosen])
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, errors(model, x, y))


@healthy(steps=200, bound=0.3)
def probe_at_a_rate_of_one() -> Program:
    """Logistic regression on standardised features of a network that is done: it bears a rate of 1."""
    x, y, *_ = digits()
    body = nn.Sequential(nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 16), nn.Tanh())
    _trained(nn.Sequential(body, nn.Linear(16, 10)), x, y, turns=25)
    with torch.no_grad():
        features = body(x)
        features = (features - features.mean(0)) / features.std(0)
    probe = nn.Linear(16, 10)
    nn.init.zeros_(probe.weight)
    nn.init.zeros_(probe.bias)
    optimizer = SGD(probe.parameters(), lr=1.0, weight_decay=1e-4)

    def step(i: int) -> None:
        loss = F.cross_entropy(probe(features), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(probe, optimizer, step, mean_loss(probe, features, y, F.cross_entropy))


@healthy(steps=250, bound=0.06)
def biases_alone_are_tuned() -> Program:
    """Everything that has been trained stays, and the biases move the network to sensors with another offset."""
    x, y, *_ = table("breast_cancer")
    model = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 2))
    _trained(model, x, y, turns=60)
    shift = 1.5 * torch.randn(30)
    for name, p in model.named_parameters():
        p.requires_grad = name.endswith("bias")
    optimizer = Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    criterion = nn.CrossEntropyLoss()
    loader = batches(x + shift, y, 32)

    def step(i: int) -> None:
        rows, labels = next(loader)
        optimizer.zero_grad()
        criterion(model(rows), labels).backward()
        optimizer.step()

    return Program(model, optimizer, step, errors(model, x + shift, y))

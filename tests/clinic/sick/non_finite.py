"""NaN and Inf, by their usual ways in."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam

from tests.clinic import data, models
from tests.clinic.case import Program, sick
from tests.clinic.loops import cross_entropy, errors, mean_loss, supervised


@sick("non-finite", steps=250, by=100, bound=0.3)
def logarithm_of_a_probability(fault: bool) -> Program:
    """Prototypes at a low temperature: as soon as one wrong answer is far off, its probability is 0."""
    encoder = models.mlp(64, 64, 16)
    model: Any = nn.ModuleDict({"encoder": encoder, "prototypes": nn.Linear(16, 10, bias=False)})
    task = data.digits()
    loader = data.batches(task.x, task.y, 32)
    optimizer = Adam(model.parameters(), lr=3e-3)

    def scores(inputs: Tensor) -> Tensor:
        code = F.normalize(model["encoder"](inputs), dim=1)
        return code @ F.normalize(model["prototypes"].weight, dim=1).T / 0.008

    def step(i: int) -> None:
        inputs, targets = next(loader)
        rows = torch.arange(len(targets))
        if fault:
            loss = -scores(inputs).softmax(1).log()[rows, targets].mean()
        else:
            loss = -scores(inputs).log_softmax(1)[rows, targets].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return float((scores(task.x).argmax(1) != task.y).float().mean())

    return Program(model, optimizer, step, loss)


@sick("non-finite", steps=200, by=20, bound=0.3)
def root_of_a_zero_distance(fault: bool) -> Program:
    """A Siamese network whose Euclidean distance has no gradient at 0: pairs of an image with itself give NaN."""
    model = models.mlp(64, 32, 8)
    task = data.digits()
    optimizer = Adam(model.parameters(), lr=2e-3)

    def step(i: int) -> None:
        left, right = torch.randint(len(task.x), (2, 48))
        right[:2] = left[:2]
        same = (task.y[left] == task.y[right]).float()
        squared = (model(task.x[left]) - model(task.x[right])).square().sum(1)
        distance = (squared + (0 if fault else 1e-6)).sqrt()
        loss = (same * distance**2 + (1 - same) * F.relu(2 - distance) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        """Share of images whose nearest neighbour is another digit."""
        with torch.no_grad():
            code = model(task.x[:500])
            near = (torch.cdist(code, code) + 1e9 * torch.eye(500)).argmin(1)
            return float((task.y[near] != task.y[:500]).float().mean()) if code.isfinite().all() else 1.0

    return Program(model, optimizer, step, loss)


@sick("non-finite", steps=200, by=60, bound=0.5)
def missing_value_in_the_table(fault: bool) -> Program:
    model = models.mlp(10, 32, 1)
    task = data.friedman()
    inputs = task.x.clone()
    if fault:
        inputs[17, 4] = float("nan")  # one cell of eight thousand, met somewhere in the first epoch
    optimizer = Adam(model.parameters(), lr=5e-3)
    return supervised(
        model,
        optimizer,
        task._replace(x=inputs),
        nn.MSELoss(),
        mean_loss(model, task.x, task.y, F.mse_loss),
        validate=True,
    )


@sick("non-finite", steps=150, by=100, bound=0.5)
def division_by_an_images_own_deviation(fault: bool) -> Program:
    model = models.cnn()
    task = data.digits(1, 8, 8, raw=True)
    images = task.x.clone()
    images[5] = 0  # a blank page among them
    loader = data.batches(images, task.y, 32)
    optimizer = Adam(model.parameters(), lr=2e-3)

    def step(i: int) -> None:
        images, labels = next(loader)
        mean, std = images.mean((1, 2, 3), keepdim=True), images.std((1, 2, 3), keepdim=True)
        images = (images - mean) / (std + (0 if fault else 1e-3))
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    scaled = (task.x - task.x.mean((1, 2, 3), keepdim=True)) / task.x.std((1, 2, 3), keepdim=True)
    return Program(model, optimizer, step, errors(model, scaled, task.y))


@sick("non-finite", steps=200, by=20, bound=1.0)
def softmax_written_by_hand(fault: bool) -> Program:
    """Attention from scores that nothing scales: their exponentials overflow from 89 on."""

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(12, 128)
            self.key = nn.Linear(128, 128)
            self.head = nn.Linear(128, 6)

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.embed(tokens)
            scores = x @ (x + self.key(x)).transpose(1, 2)
            by_hand = scores.exp() / scores.exp().sum(2, keepdim=True)
            weights = by_hand if fault else (scores / 128**0.5).softmax(2)
            out: Tensor = self.head((weights @ x)[:, 0])
            return out

    model = Reader()
    task = data.recall(length=8)
    optimizer = Adam(model.parameters(), lr=2e-3)
    return supervised(
        model, optimizer, task, lambda p, t: F.cross_entropy(p, t), mean_loss(model, task.x, task.y, cross_entropy)
    )


@sick("non-finite", steps=150, by=60, bound=0.5, layers=("attention", "attention.out_proj"))
def mask_that_leaves_nothing(fault: bool) -> Program:
    """A sentence without a word: every score of its softmax is -inf."""

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(13, 32)
            self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
            self.head = nn.Linear(32, 6)

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.embed(tokens)
            x, _ = self.attention(x, x, x, key_padding_mask=tokens == 12)
            out: Tensor = self.head(x[:, 0])
            return out

    model = Reader()
    task = data.recall(length=8)
    tokens = task.x.clone()
    if fault:
        tokens[100] = 12
    optimizer = SGD(model.parameters(), lr=0.2)
    loss = mean_loss(model, task.x, task.y, cross_entropy)
    return supervised(model, optimizer, task._replace(x=tokens), nn.CrossEntropyLoss(), loss)

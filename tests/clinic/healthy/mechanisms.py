"""Layers of other kinds: attention over neighbours, hashed words, few units of many, steps of Euler, energies."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adagrad, Adam, AdamW, RMSprop

from tests.clinic.case import Program, healthy
from tests.clinic.data import batches, communities, digits, friedman, ring, spirals
from tests.clinic.loops import errors, mean_loss


@healthy(steps=160, bound=0.17)
def attention_over_neighbours() -> Program:
    """A graph attention network, most of whose features are dropped at each step."""
    graph = communities(160)
    linked = graph.adjacency > 0

    class GraphAttention(nn.Module):
        def __init__(self, inputs: int, outputs: int, heads: int) -> None:
            super().__init__()
            self.heads = heads
            self.linear = nn.Linear(inputs, heads * outputs, bias=False)
            self.left = nn.Parameter(torch.empty(heads, outputs))
            self.right = nn.Parameter(torch.empty(heads, outputs))
            for weight in (self.linear.weight, self.left, self.right):
                nn.init.xavier_uniform_(weight)

        def forward(self, x: Tensor) -> Tensor:
            h = self.linear(x).view(len(x), self.heads, -1)
            scores = (h * self.left).sum(2).unsqueeze(1) + (h * self.right).sum(2).unsqueeze(0)
            scores = F.leaky_relu(scores, 0.2).masked_fill(~linked.unsqueeze(2), -1e9)
            weights = F.dropout(scores.softmax(1), 0.4, self.training)
            return torch.einsum("ijh,jhd->ihd", weights, h)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = GraphAttention(16, 8, 2), GraphAttention(16, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = F.dropout(x, 0.4, self.training)
            x = F.dropout(F.elu(self.first(x).flatten(1)), 0.4, self.training)
            out: Tensor = self.second(x).squeeze(1)
            return out

    model = Network()
    optimizer = Adam(model.parameters(), lr=1e-2, weight_decay=5e-4)

    def step(i: int) -> None:
        model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(graph.x)[graph.train], graph.y[graph.train]).backward()
        optimizer.step()

    return Program(model, optimizer, step, errors(model, graph.x, graph.y))


@healthy(steps=250, bound=0.05)
def words_hashed_twice() -> Program:
    """Six hundred words share two hundred rows in two ways, and a batch touches some: sparse gradients."""
    kind, topic = torch.randint(4, (600,)), torch.randint(4, (1500,))
    fits = (kind.unsqueeze(0) == topic.unsqueeze(1)).float() + 0.2
    words = torch.multinomial(fits, 12)

    class Hashed(nn.Module):
        def __init__(self, rows: int = 200) -> None:
            super().__init__()
            self.rows = rows
            self.bags = nn.ModuleList(nn.EmbeddingBag(rows, 16, mode="sum", sparse=True) for _ in range(2))
            self.head = nn.Linear(32, 4)
            for table in self.bags.parameters():
                nn.init.normal_(table, std=0.1)

        def forward(self, words: Tensor) -> Tensor:
            hashes = (words * 7919 % 10007 % self.rows, words * 104729 % 10009 % self.rows)
            out: Tensor = self.head(torch.cat([bag(h) for bag, h in zip(self.bags, hashes, strict=True)], 1))
            return out

    model = Hashed()
    optimizer = Adagrad(model.parameters(), lr=0.1)
    loader = batches(words, topic, 32)

    def step(i: int) -> None:
        text, labels = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(text), labels).backward()
        optimizer.step()

    return Program(model, optimizer, step, errors(model, words, topic))


@healthy(steps=250, bound=0.1)
def twelve_units_of_ninety_six() -> Program:
    """A sparse autoencoder keeps the largest few of its units for each image."""
    x = digits().x

    class TopK(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before = nn.Parameter(x.mean(0))
            self.encoder = nn.Linear(64, 96)
            self.decoder = nn.Linear(96, 64, bias=False)
            with torch.no_grad():
                self.decoder.weight.copy_(F.normalize(self.encoder.weight.T, dim=0))
                self.encoder.weight.copy_(self.decoder.weight.T)

        def forward(self, x: Tensor) -> Tensor:
            values, places = self.encoder(x - self.before).topk(12, dim=1)
            code = torch.zeros(len(x), 96).scatter(1, places, F.relu(values))
            out: Tensor = self.decoder(code) + self.before
            return out

    model = TopK()
    optimizer = Adam(model.parameters(), lr=2e-3)

    def step(i: int) -> None:
        images = x[torch.randint(len(x), (128,))]
        loss = F.mse_loss(model(images), images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.decoder.weight.copy_(F.normalize(model.decoder.weight, dim=0))

    return Program(model, optimizer, step, mean_loss(model, x, x, F.mse_loss))


@healthy(steps=250, bound=0.1)
def spirals_in_twelve_steps_of_euler() -> Program:
    """The same two layers twelve times, each time for a twelfth of what they say."""
    task = spirals(noise=0.05)

    class Flow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift = nn.Linear(2, 24)
            self.field = nn.Sequential(nn.Linear(25, 48), nn.Tanh(), nn.Linear(48, 24))
            self.head = nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Tensor:
            state = self.lift(x)
            for i in range(12):
                time = torch.full((len(x), 1), i / 12)
                state = state + self.field(torch.cat((state, time), 1)) / 12
            out: Tensor = self.head(state)
            return out

    model = Flow()
    optimizer = AdamW(model.parameters(), lr=2e-2)
    loader = batches(task.x, task.y, 64)

    def step(i: int) -> None:
        points, labels = next(loader)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(points), labels)
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, task.x, task.y, F.cross_entropy))


@healthy(steps=400, bound=0.5)
def energies_told_from_noise() -> Program:
    """An energy for each point, trained to tell data from Gaussian noise whose density is known."""
    points = ring()
    energy = nn.Sequential(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))
    optimizer = Adam(energy.parameters(), lr=3e-3)

    def contrast(data: Tensor) -> Tensor:
        noise = 1.3 * torch.randn_like(data)
        both = torch.cat((data, noise))
        log_noise = -both.square().sum(1) / (2 * 1.3**2) - math.log(2 * math.pi * 1.3**2)
        logits = -energy(both).squeeze(1) - log_noise
        target = torch.cat((torch.ones(len(data)), torch.zeros(len(data))))
        return F.binary_cross_entropy_with_logits(logits, target)

    def step(i: int) -> None:
        optimizer.zero_grad()
        contrast(points[torch.randint(len(points), (128,))]).backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return float(contrast(points))

    return Program(energy, optimizer, step, loss)


@healthy(steps=300, bound=0.3)
def bells_around_learned_centres() -> Program:
    """Radial basis functions: far from its centre a unit says nothing, and so do most of them to most rows."""
    task = friedman(noise=0.2)

    class Bells(nn.Module):
        def __init__(self, centres: int = 96) -> None:
            super().__init__()
            self.centres = nn.Parameter(task.x[:centres].clone())
            self.log_width = nn.Parameter(torch.full((centres,), 1.0))
            self.scale = nn.Parameter(torch.ones(10))
            self.linear = nn.Linear(centres, 1)

        def forward(self, x: Tensor) -> Tensor:
            distance = torch.cdist(x * self.scale, self.centres * self.scale)
            bells = torch.exp(-(distance / self.log_width.exp()).square() / 2)
            out: Tensor = self.linear(bells)
            return out

    model = Bells()
    optimizer = RMSprop(model.parameters(), lr=5e-3)
    criterion = nn.MSELoss()
    loader = batches(task.x, task.y, 64)

    def step(i: int) -> None:
        rows, targets = next(loader)
        optimizer.zero_grad()
        loss = criterion(model(rows), targets)
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, task.x, task.y, criterion))

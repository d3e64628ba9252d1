"""Representations in which all inputs become one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from tests.clinic import data, models
from tests.clinic.case import Program, sick
from tests.clinic.loops import errors, mean_loss, supervised


def _other_neighbours(encoder: nn.Module, task: data.Data) -> float:
    """Share of images whose nearest neighbour in the code is another digit."""
    encoder.eval()
    with torch.no_grad():
        code = F.normalize(encoder(task.x[:600]) - encoder(task.x[:600]).mean(0), dim=1)
        near = (code @ code.T - 10 * torch.eye(600)).argmax(1)
        return float((task.y[near] != task.y[:600]).float().mean())


def _view(images: Tensor) -> Tensor:
    return images * (torch.rand_like(images) > 0.2) + 0.1 * torch.randn_like(images)


@sick("representation-collapse", steps=300, by=60, bound=0.55)
def siamese_network_without_negatives(fault: bool) -> Program:
    encoder = models.mlp(64, 64, 32)
    task = data.digits()
    optimizer = Adam(encoder.parameters(), lr=2e-3)

    def step(i: int) -> None:
        images = task.x[torch.randint(len(task.x), (128,))]
        left, right = encoder(_view(images)), encoder(_view(images))
        if fault:
            loss = F.mse_loss(left, right)
        else:
            scores = F.normalize(left, dim=1) @ F.normalize(right, dim=1).T / 0.2
            loss = F.cross_entropy(scores, torch.arange(len(images)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        """Share of the code that all images have in common."""
        with torch.no_grad():
            code = encoder(task.x[:500])
            spread = code.var(0).sum()
            return float(1 - spread / code.square().sum(1).mean())

    return Program(encoder, optimizer, step, loss)


@sick("representation-collapse", steps=200, by=60, bound=0.14)
def every_pair_labelled_alike(fault: bool) -> Program:
    encoder = nn.Sequential(models.cnn((8, 16), norm=False)[:-1], nn.Linear(64, 24))
    task = data.digits(1, 8, 8)
    optimizer = Adam(encoder.parameters(), lr=2e-3)
    criterion = nn.CosineEmbeddingLoss(margin=0.2)

    def step(i: int) -> None:
        left, right = torch.randint(len(task.x), (2, 96))
        alike = torch.where(task.y[left] == task.y[right], 1.0, -1.0)
        alike = torch.ones(96) if fault else alike  # the labels were read as "has a partner"
        loss = criterion(encoder(task.x[left]), encoder(task.x[right]), alike)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(encoder, optimizer, step, lambda: _other_neighbours(encoder, task))


@sick(
    "representation-collapse",
    "vanishing-gradient",
    "poor-initialization",
    steps=200,
    by=50,
    bound=0.2,
    layers=tuple(f"layers.{place}{part}" for place in range(17) for part in ("", ".linear")),
)
def sixteen_graph_convolutions(fault: bool) -> Program:
    """Oversmoothing: each layer averages the neighbours, until all nodes look the same."""
    graph = data.communities()
    depth = 16 if fault else 1
    model = models.GraphNetwork(16, *[32] * depth, 4)
    models.initialise(model, nn.init.xavier_normal_)
    optimizer = Adam(model.parameters(), lr=5e-3)

    def step(i: int) -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(graph.x, graph.adjacency)[graph.train], graph.y[graph.train]).backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            answer = model(graph.x, graph.adjacency).argmax(1)
            return float((answer != graph.y).float().mean())

    return Program(model, optimizer, step, loss)


@sick(
    "representation-collapse",
    "vanishing-gradient",
    steps=100,
    by=50,
    bound=0.12,
    layers=tuple(f"layers.{place}" for place in range(8)),
)
def attention_without_shortcuts(fault: bool) -> Program:
    """Attention alone loses rank doubly exponentially with depth."""

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(8, 32)
            self.positions = nn.Parameter(0.2 * torch.randn(8, 32))
            self.layers = nn.ModuleList(nn.MultiheadAttention(32, 4, batch_first=True) for _ in range(8))
            self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(8))
            self.head = nn.Linear(32 * 8, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x) + self.positions
            for attention, norm in zip(self.layers, self.norms, strict=True):
                normed = norm(x)
                mixed, _ = attention(normed, normed, normed, need_weights=False)
                x = mixed if fault else x + mixed
            out: Tensor = self.head(x.flatten(1))
            return out

    model = Reader()
    task = data.digits(8, 8)
    optimizer = Adam(model.parameters(), lr=2e-3)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), errors(model, task.x, task.y))


@sick("representation-collapse", "over-regularized", steps=300, by=100, bound=0.3)
def vae_that_ignores_its_code(fault: bool) -> Program:
    """The divergence weighs too much: the code carries nothing, every image is reconstructed as their mean."""
    model = models.VAE()
    x = data.digits().x
    optimizer = Adam(model.parameters(), lr=3e-3)
    weight = 1.0 if fault else 0.005

    def step(i: int) -> None:
        images = x[torch.randint(len(x), (64,))]
        answer, mean, log_variance = model(images)
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()
        loss = F.mse_loss(answer, images) + weight * divergence
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x, x, lambda p, t: F.mse_loss(p[0], t)))


@sick(
    "representation-collapse",
    "input-not-used",
    "constant-output",
    steps=150,
    by=75,
    bound=0.9,
    miss="the points wander together, which more samples show than the budget has by then",
)
def generator_of_one_point(fault: bool) -> Program:
    """Mode collapse: ten steps of the generator for one of its critic, and all noise gets the same answer."""
    generator, critic = models.mlp(4, 48, 48, 2), models.mlp(2, 64, 64, 1, activation=nn.SiLU)
    points = data.ring(modes=8)
    first = Adam(generator.parameters(), lr=2e-3, betas=(0.5, 0.99))
    second = Adam(critic.parameters(), lr=1e-3 if fault else 5e-3, betas=(0.5, 0.99))

    def step(i: int) -> None:
        real = points[torch.randint(len(points), (64,))]
        second.zero_grad()
        fake = generator(torch.randn(64, 4)).detach()
        (F.softplus(-critic(real)).mean() + F.softplus(critic(fake)).mean()).backward()
        second.step()
        for _ in range(10 if fault else 1):
            first.zero_grad()
            F.softplus(-critic(generator(torch.randn(64, 4)))).mean().backward()
            first.step()

    def loss() -> float:
        """How far the points are from the next generated one, and the other way round."""
        with torch.no_grad():
            distance = torch.cdist(points[:500], generator(torch.randn(500, 4)))
            return float(distance.min(1).values.mean() + distance.min(0).values.mean())

    return Program(generator, first, step, loss)

"""Graphs and sets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, AdamW

from tests.clinic import data, models
from tests.clinic.case import Program, healthy
from tests.clinic.loops import mean_loss


@healthy(steps=100, bound=0.35)
def graph_convolution() -> Program:
    graph = data.communities(400)
    model = models.GraphNetwork(16, 16, 4)
    optimizer = Adam(model.parameters(), lr=1e-2, weight_decay=5e-3)

    def step(i: int) -> None:
        model.train()
        optimizer.zero_grad()
        output = model(F.dropout(graph.x, 0.3), graph.adjacency)
        loss = F.cross_entropy(output[graph.train], graph.y[graph.train])
        loss.backward()
        optimizer.step()

    def loss() -> float:
        model.eval()
        with torch.no_grad():
            return F.cross_entropy(model(graph.x, graph.adjacency)[~graph.train], graph.y[~graph.train]).item()

    return Program(model, optimizer, step, loss)


class MessagePassing(nn.Module):
    """Sums messages over the edges of many small graphs at once, then over the nodes of each."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, width)
        self.message, self.update = models.mlp(2 * width, width, width), nn.GRUCell(width, width)
        self.head = models.mlp(width, width, 1)

    def forward(self, kinds: Tensor, links: Tensor) -> Tensor:
        state = self.embed(kinds)
        graphs, nodes, width = state.shape
        for _ in range(2):
            both = torch.cat((state[:, :, None].expand(-1, -1, nodes, -1), state[:, None].expand(-1, nodes, -1, -1)), 3)
            heard = (self.message(both) * links.unsqueeze(3)).sum(2) / 2
            state = self.update(heard.reshape(-1, width), state.reshape(-1, width)).view(graphs, nodes, width)
        out: Tensor = self.head(state.mean(1))
        return out


@healthy(steps=250, bound=0.18)
def messages_over_small_graphs() -> Program:
    kinds = torch.randint(5, (1500, 6))
    links = (torch.rand(1500, 6, 6) < 0.4).triu(1)
    links = (links | links.transpose(1, 2)).float()
    alike = (kinds[:, :, None] == kinds[:, None]).float() * links
    y = alike.sum((1, 2)).unsqueeze(1)  # links between nodes of one kind
    y = (y - y.mean()) / y.std()
    model = MessagePassing()
    optimizer = AdamW(model.parameters(), lr=5e-3)

    def step(i: int) -> None:
        chosen = torch.randint(1200, (32,))
        optimizer.zero_grad()
        loss = F.mse_loss(model(kinds[chosen], links[chosen]), y[chosen])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return F.mse_loss(model(kinds[1200:], links[1200:]), y[1200:]).item()

    return Program(model, optimizer, step, loss)


class DeepSet(nn.Module):
    """Each element through one network, their mean through another."""

    def __init__(self) -> None:
        super().__init__()
        self.each = models.mlp(1, 48, 48)
        self.all = models.mlp(48, 48, 1)

    def forward(self, sets: Tensor) -> Tensor:
        out: Tensor = self.all(F.relu(self.each(sets)).mean(1))
        return out


@healthy(steps=400, bound=0.23)
def spread_of_a_set() -> Program:
    scale = 0.3 + torch.rand(3000, 1, 1)
    sets = scale * torch.randn(3000, 12, 1) + torch.randn(3000, 1, 1)
    spread = sets.std(1)
    x, y, x_val, y_val = data.split(sets / sets.std(), (spread - spread.mean()) / spread.std())
    model = DeepSet()
    optimizer = Adam(model.parameters(), lr=3e-3)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        elements, answers = next(loader)
        loss = F.mse_loss(model(elements), answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.mse_loss))

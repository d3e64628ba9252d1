"""Messages over graphs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, RMSprop

from tests.clinic import data, models, tasks
from tests.clinic.case import Program, sick
from tests.clinic.loops import mean_loss, supervised


class Messages(nn.Module):
    """Rounds of messages along the bonds of small graphs [n, nodes, 3 + nodes], then a sum over the nodes."""

    def __init__(self, rounds: int = 2, width: int = 24, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.embed = nn.Linear(3, width)
        self.messages = nn.ModuleList(nn.Linear(width, width) for _ in range(rounds))
        self.updates = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(rounds))
        self.activation = activation()
        self.readout = models.mlp(width, width, 1)

    def forward(self, graph: Tensor) -> Tensor:
        x, bonds = self.embed(graph[..., :3]), graph[..., 3:]
        for message, update in zip(self.messages, self.updates, strict=True):
            got = bonds @ self.activation(message(x)) / 3
            x = self.activation(update(torch.cat((x, got), 2)))
        out: Tensor = self.readout(x.mean(1))
        return out


@sick("silent-broadcast", steps=200, by=5, bound=0.5)
def energies_against_a_row(fault: bool) -> Program:
    """The loader of graphs collects one number for each into [n], the readout answers [n, 1]."""
    model = Messages()
    task = tasks.molecules()
    optimizer = Adam(model.parameters(), lr=5e-3)
    criterion = nn.HuberLoss()

    def loss_function(p: Tensor, t: Tensor) -> Tensor:
        error: Tensor = criterion(p if fault else p.squeeze(1), t.squeeze(1))
        return error

    return supervised(model, optimizer, task, loss_function, mean_loss(model, task.x, task.y, F.mse_loss))


@sick(
    "vanishing-gradient",
    "saturated-units",
    "representation-collapse",
    "poor-initialization",
    steps=200,
    by=100,
    bound=0.6,
)
def eight_rounds_through_sigmoids(fault: bool) -> Program:
    model = Messages(rounds=8 if fault else 2, activation=nn.Sigmoid if fault else nn.ReLU)
    task = tasks.molecules()
    optimizer = RMSprop(model.parameters(), lr=2e-3)
    return supervised(model, optimizer, task, nn.MSELoss(), mean_loss(model, task.x, task.y, F.mse_loss))


@sick("exploding-gradient", "poor-initialization", "unexpected-initial-loss", steps=100, by=10, bound=0.5)
def neighbours_summed_instead_of_averaged(fault: bool) -> Program:
    """Degrees of sixty: a sum over the neighbours, layer after layer, grows by them each time."""
    graph = data.communities(nodes=400)
    links = (graph.adjacency > 0).float()
    adjacency = 3 * links if fault else graph.adjacency
    model = models.GraphNetwork(16, 32, 32, 32, 32, 4)
    models.initialise(model, nn.init.kaiming_normal_)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)

    def step(i: int) -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(graph.x, adjacency)[graph.train], graph.y[graph.train]).backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return float((model(graph.x, adjacency).argmax(1) != graph.y).float().mean())

    return Program(model, optimizer, step, loss)


@sick("excess-dropout", "underfitting", steps=200, by=100, bound=0.25)
def nodes_that_hardly_ever_speak(fault: bool) -> Program:
    class Network(models.GraphNetwork):
        def __init__(self) -> None:
            super().__init__(16, 16, 4)
            self.drop = nn.Dropout(0.97 if fault else 0.3)

        def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
            x = self.drop(F.relu(self.layers[0](self.drop(x), adjacency)))
            out: Tensor = self.layers[1](x, adjacency)
            return out

    graph = data.communities()
    model = Network()
    optimizer = Adam(model.parameters(), lr=1e-2, weight_decay=5e-4)

    def step(i: int) -> None:
        model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(graph.x, graph.adjacency)[graph.train], graph.y[graph.train]).backward()
        optimizer.step()

    def loss() -> float:
        model.eval()
        with torch.no_grad():
            return float(F.cross_entropy(model(graph.x, graph.adjacency), graph.y))

    return Program(model, optimizer, step, loss)

"""Parameters that no gradient reaches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import cross_entropy as criterion
from torch.optim import SGD, Adam

from tests.clinic import data, models
from tests.clinic.case import Program, sick
from tests.clinic.loops import cross_entropy, errors, mean_loss, supervised

ENCODER = ("encoder", "encoder.0", "encoder.1", "encoder.4", "encoder.5")


@sick("no-gradient", steps=250, by=50, bound=0.05, layers=("pixels", "pixels.0", "pixels.2"))
def detached_branch(fault: bool) -> Program:
    class TwoBranches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pixels = models.mlp(48, 32, 16)
            self.rows = models.mlp(16, 16, 16)
            self.head = nn.Linear(32, 10)

        def forward(self, x: Tensor) -> Tensor:
            seen = self.pixels(x[:, 16:])
            both = torch.cat((seen.detach() if fault else seen, self.rows(x[:, :16])), 1)
            out: Tensor = self.head(F.relu(both))
            return out

    model = TwoBranches()
    task = data.digits()
    return supervised(model, Adam(model.parameters(), lr=3e-3), task, criterion, errors(model, task.x, task.y))


@sick("no-gradient", steps=150, by=50, bound=0.2, layers=ENCODER)
def encoder_under_no_grad(fault: bool) -> Program:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            full = models.cnn((4, 4))
            self.encoder = full[:-1]
            self.head = nn.Linear(16, 10)

        def forward(self, x: Tensor) -> Tensor:
            with torch.set_grad_enabled(not fault and torch.is_grad_enabled()):
                features = self.encoder(x)
            out: Tensor = self.head(features)
            return out

    model = Classifier()
    task = data.digits(1, 8, 8)
    return supervised(
        model, Adam(model.parameters(), lr=5e-3), task, nn.CrossEntropyLoss(), errors(model, task.x, task.y)
    )


@sick("no-gradient", steps=300, by=50, bound=0.15, layers=("extra",), note=True)
def layers_forgotten_in_forward(fault: bool) -> Program:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(2, 48)
            self.extra = nn.Linear(48, 48)
            self.head = nn.Linear(48, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.first(x))
            if not fault:
                x = F.relu(self.extra(x))
            out: Tensor = self.head(x)
            return out

    model = Network()
    task = data.spirals()
    optimizer = Adam(model.parameters(), lr=1e-2)
    return supervised(model, optimizer, task, criterion, mean_loss(model, task.x, task.y, cross_entropy))


@sick("no-gradient", steps=300, by=50, bound=0.24, layers=("encoder", "encoder.0", "encoder.2"))
def rounded_code(fault: bool) -> Program:
    """A discrete bottleneck without a straight-through estimator: the encoder stays as it was born."""

    class Autoencoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = models.mlp(64, 48, 24)
            self.decoder = models.mlp(24, 48, 64)

        def forward(self, x: Tensor) -> Tensor:
            code = torch.sigmoid(self.encoder(x))
            bits = (code > 0.5).float()
            out: Tensor = self.decoder(bits if fault else bits + code - code.detach())
            return out

    model = Autoencoder()
    x = data.digits().x
    images = data.Data(x, x, x, x)
    optimizer = Adam(model.parameters(), lr=3e-3)
    return supervised(model, optimizer, images, nn.MSELoss(), mean_loss(model, x, x, F.mse_loss))


@sick("no-gradient", steps=200, by=50, bound=0.028, layers=("layers.0.linear", "layers.0"))
def features_through_numpy(fault: bool) -> Program:
    class Network(models.GraphNetwork):
        def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
            hidden = F.relu(self.layers[0](x, adjacency))
            if fault:
                hidden = torch.from_numpy(hidden.detach().numpy())  # for a plot, once
            out: Tensor = self.layers[1](hidden, adjacency)
            return out

    graph = data.communities()
    model = Network(16, 4, 4)
    optimizer = Adam(model.parameters(), lr=2e-2)

    def step(i: int) -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(graph.x, graph.adjacency)[graph.train], graph.y[graph.train]).backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            answer = model(graph.x, graph.adjacency)[graph.train]
            return float((answer.argmax(1) != graph.y[graph.train]).float().mean())

    return Program(model, optimizer, step, loss)


@sick("no-gradient", "weights-not-updated", steps=200, by=50, bound=0.05, layers=("0", "4", "9"))
def everything_frozen_but_batchnorm(fault: bool) -> Program:
    model = models.cnn((6, 8))
    if fault:
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.split(".")[0] in ("1", "5")
    task = data.digits(1, 8, 8)
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), errors(model, task.x, task.y))

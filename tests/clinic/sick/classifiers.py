"""Classifiers of images, and a model of a moving thing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, NAdam

from tests.clinic import data, models
from tests.clinic.case import Program, sick
from tests.clinic.loops import cross_entropy, errors, mean_loss, supervised


@sick("underfitting", "not-learning", "loss-plateau", steps=250, by=150, bound=0.5)
def pooled_before_it_has_seen_anything(fault: bool) -> Program:
    """The average over the image stands after the first 1x1 convolution: a digit is its mean brightness."""
    pooling = nn.AdaptiveAvgPool2d(1 if fault else 4)
    kernel = 1 if fault else 3
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, kernel, padding=kernel // 2), nn.GroupNorm(4, 16), nn.ReLU(), pooling, nn.Flatten()),
        nn.Linear(16 if fault else 256, 10),
    )
    task = data.digits(1, 8, 8)
    optimizer = Adam(model.parameters(), lr=5e-3)
    loss = mean_loss(model, task.x, task.y, cross_entropy)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), loss, batch=64, validate=True)


@sick("overfitting", steps=250, by=200, bound=0.6)
def transformer_on_sixty_images(fault: bool) -> Program:
    model = models.Encoder(8, 10, 8, dropout=0.0)
    task = data.digits(8, 8)
    if fault:
        task = task._replace(x=task.x[:60], y=task.y[:60])
    optimizer = AdamW(model.parameters(), lr=2e-3)
    loss = mean_loss(model, task.x_val, task.y_val, cross_entropy)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), loss, batch=16, validate=True)


@sick("constant-input", "input-not-used", "not-learning", steps=100, by=10, bound=0.5)
def buffer_that_is_never_filled(fault: bool) -> Program:
    """The function that collates a batch names each row of its buffer, and then the name another tensor."""
    model = models.resnet(1, 8)
    task = data.digits(1, 8, 8)
    optimizer = NAdam(model.parameters(), lr=3e-3)

    def collate(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
        images = torch.zeros(len(samples), 1, 8, 8)
        for place, (image, _) in enumerate(samples):
            row = images[place]
            if fault:
                row = image
            else:
                row[:] = image
        return images, torch.tensor([label for _, label in samples])

    def step(i: int) -> None:
        chosen = torch.randint(len(task.x), (32,)).tolist()
        images, labels = collate([(task.x[place], int(task.y[place])) for place in chosen])
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return Program(model, optimizer, step, errors(model, task.x, task.y))


@sick(
    "missing-nonlinearity",
    "underfitting",
    steps=300,
    by=5,
    bound=0.15,
)
def norms_taken_for_activations(fault: bool) -> Program:
    """BatchNorm after each layer, and nothing that bends: two rings cannot be parted by a line."""
    layers: list[nn.Module] = []
    for before, after in ((2, 32), (32, 32), (32, 32)):
        layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after)]
        layers += [] if fault else [nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(32, 2))
    task = data.circles(1200)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), errors(model, task.x, task.y), batch=64)


@sick("wrong-output-activation", "redundant-softmax", steps=200, by=5, bound=0.3)
def tanh_on_logits(fault: bool) -> Program:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 12, 3, stride=2, padding=1)
            self.norm = nn.GroupNorm(3, 12)
            self.head = nn.Linear(12 * 16, 10)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(F.gelu(self.norm(self.conv(x))).flatten(1))
            return torch.tanh(out) if fault else out

    model = Classifier()
    task = data.digits(1, 8, 8)
    optimizer = AdamW(model.parameters(), lr=3e-3)
    return supervised(model, optimizer, task, cross_entropy, mean_loss(model, task.x, task.y, cross_entropy), batch=64)


@sick("exploding-gradient", "diverging-loss", "non-finite", "learning-rate-too-large", steps=150, by=50, bound=0.3)
def dynamics_unrolled_without_a_limit(fault: bool) -> Program:
    """A learned step of a pendulum, applied forty times with twice the step it was meant for."""

    class Dynamics(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.change = models.mlp(2, 32, 2, activation=nn.ReLU if fault else nn.Tanh)

        def forward(self, state: Tensor, steps: int) -> Tensor:
            states = []
            for _ in range(steps):
                state = state + (0.5 if fault else 0.1) * self.change(state)
                states.append(state)
            return torch.stack(states, 1)

    model = Dynamics()
    start = torch.randn(400, 2)
    truth, state = [], start
    for _ in range(40):
        velocity = state[:, 1] - 0.1 * torch.sin(state[:, 0])
        state = torch.stack((state[:, 0] + 0.1 * velocity, velocity), 1)
        truth.append(state)
    path = torch.stack(truth, 1)
    horizon = 40 if fault else 8
    optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9)

    def step(i: int) -> None:
        chosen = torch.randint(len(start), (32,))
        optimizer.zero_grad()
        F.mse_loss(model(start[chosen], horizon), path[chosen, :horizon]).backward()
        optimizer.step()

    def loss() -> float:
        """Error over the first eight steps, of the change in them."""
        with torch.no_grad():
            moved = (path[:, :8] - start[:, None]).square().mean()
            return float(F.mse_loss(model(start, 8), path[:, :8]) / moved)

    return Program(model, optimizer, step, loss)

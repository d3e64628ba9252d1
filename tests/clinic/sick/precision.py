"""Half precision: what is too small or too large for it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from tests.clinic import data, models
from tests.clinic.case import Program, sick
from tests.clinic.loops import cross_entropy, errors, mean_loss


@sick("gradient-underflow", steps=200, by=50, bound=0.5)
def autocast_without_loss_scaling(fault: bool) -> Program:
    """The mean over all pixels, with a small weight, leaves gradients below the smallest number of float16, 6e-8."""
    model = models.mlp(64, 32, 16, 32, 64)
    x = data.digits().x
    optimizer = Adam(model.parameters(), lr=3e-3)
    scaler = torch.amp.GradScaler("cpu", enabled=not fault)

    def step(i: int) -> None:
        images = x[torch.randint(len(x), (256,))]
        with torch.autocast("cpu", torch.float16):
            answer = model(images)
        loss = 1e-4 * F.mse_loss(answer.float(), images)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return Program(model, optimizer, step, mean_loss(model, x, x, F.mse_loss))


@sick("gradient-underflow", "weights-not-updated", "learning-rate-too-small", steps=400, by=50, bound=1.2)
def weights_in_bfloat16(fault: bool) -> Program:
    """Steps of a thousandth of a weight are rounded away by numbers with eight bits."""
    model = models.mlp(64, 256, 256, 10).to(torch.bfloat16 if fault else torch.float32)
    task = data.digits()
    loader = data.batches(task.x, task.y, 32)
    optimizer = Adam(model.parameters(), lr=5e-5)

    def step(i: int) -> None:
        inputs, targets = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs.to(next(model.parameters()).dtype)).float(), targets).backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return float(F.cross_entropy(model(task.x.to(next(model.parameters()).dtype)).float(), task.y))

    return Program(model, optimizer, step, loss)


class Energies(nn.Module):
    """Classifies from sums of squares, which a float16 cannot hold above 65504."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.features = nn.Linear(64, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        energy = (self.scale * self.features(x)).square()
        out: Tensor = self.head(energy / self.scale**2)
        return out


@sick("loss-scale-collapse", "non-finite", steps=150, by=50, bound=0.5)
def squares_overflow_in_float16(fault: bool) -> Program:
    model = Energies(300.0)
    task = data.digits()
    loader = data.batches(task.x, task.y, 32)
    optimizer = Adam(model.parameters(), lr=3e-3)
    scaler = torch.amp.GradScaler("cpu", enabled=fault)

    def step(i: int) -> None:
        inputs, targets = next(loader)
        with torch.autocast("cpu", torch.float16 if fault else torch.bfloat16):
            loss = F.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return Program(model, optimizer, step, mean_loss(model, task.x, task.y, cross_entropy))


@sick("loss-scale-collapse", "non-finite", steps=120, by=50, bound=0.3)
def gradient_overflows_at_any_scale(fault: bool) -> Program:
    """The backward pass of a root at zero is Inf: the scaler halves its scale at each step, and skips the step."""
    model = models.cnn((8, 16))
    task = data.digits(1, 8, 8)
    loader = data.batches(task.x, task.y, 32)
    optimizer = Adam(model.parameters(), lr=3e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)

    def step(i: int) -> None:
        inputs, targets = next(loader)
        with torch.autocast("cpu", torch.float16):
            answer = model(inputs)
            spread = ((answer - answer[:1]).float().square().sum(1) + (0.0 if fault else 1e-4)).sqrt().mean()
            loss = F.cross_entropy(answer.float(), targets) + 1e-3 * spread
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return Program(model, optimizer, step, errors(model, task.x, task.y))

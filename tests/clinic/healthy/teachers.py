"""Networks that learn from another, or from their own past."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam
from torch.utils.data import DataLoader, TensorDataset

from tests.clinic import data, models
from tests.clinic.case import Program, healthy
from tests.clinic.healthy.contrastive import blurred
from tests.clinic.loops import mean_loss
from tests.clinic.turns import Loop, turns


class SelfTaught(nn.Module):
    """BYOL: an online network predicts what a slowly following copy of it makes of another view."""

    def __init__(self) -> None:
        super().__init__()
        self.online = models.mlp(64, 128, 32, norm=True)
        self.predictor = models.mlp(32, 64, 32, norm=True)
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return (self.half_loss(one, other) + self.half_loss(other, one)) / 2

    def half_loss(self, one: Tensor, other: Tensor) -> Tensor:
        with torch.no_grad():
            aim = self.target(other)
        return 2 - 2 * F.cosine_similarity(self.predictor(self.online(one)), aim).mean()

    @torch.no_grad()
    def follow(self, pace: float = 0.02) -> None:
        for slow, fast in zip(self.target.parameters(), self.online.parameters(), strict=True):
            slow.lerp_(fast, pace)


@healthy(steps=250, bound=0.6)
def own_slow_copy_as_target() -> Program:
    digits = data.digits()
    model = SelfTaught()
    optimizer = Adam([*model.online.parameters(), *model.predictor.parameters()], lr=1e-3)

    def train() -> Loop:
        loader = DataLoader(TensorDataset(digits.x), batch_size=128, shuffle=True, drop_last=True)
        while True:
            for (images,) in loader:
                model.train()
                loss = model(blurred(images), blurred(images))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                model.follow()
                yield

    def loss() -> float:
        model.eval()
        with torch.no_grad():
            return float(model(blurred(digits.x_val), blurred(digits.x_val)))

    return Program(model, optimizer, turns(train()), loss)


@healthy(steps=250, bound=0.57)
def student_of_a_teacher() -> Program:
    x, y, x_val, y_val = data.digits()
    teacher = models.mlp(64, 128, 10)
    teacher_optimizer = Adam(teacher.parameters(), lr=3e-3)
    for _ in range(60):
        teacher_optimizer.zero_grad()
        F.cross_entropy(teacher(x), y).backward()
        teacher_optimizer.step()
    teacher.eval().requires_grad_(False)
    student = models.mlp(64, 24, 10)
    optimizer = Adam(student.parameters(), lr=3e-3)
    loader = data.batches(x, y, 64)
    heat = 3.0

    def step(i: int) -> None:
        images, labels = next(loader)
        with torch.no_grad():
            soft = F.log_softmax(teacher(images) / heat, dim=1)
        logits = student(images)
        imitation = F.kl_div(F.log_softmax(logits / heat, 1), soft, reduction="batchmean", log_target=True) * heat**2
        loss = 0.7 * imitation + 0.3 * F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(student, optimizer, step, mean_loss(student, x_val, y_val, F.cross_entropy))

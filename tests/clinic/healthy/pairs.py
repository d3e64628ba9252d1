"""Networks that learn from pairs of views, from a teacher, or against another domain."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from tests.clinic import data, models
from tests.clinic.case import Program, healthy
from tests.clinic.loops import mean_loss


def _view(images: Tensor) -> Tensor:
    return images * (torch.rand_like(images) > 0.2) + 0.2 * torch.randn_like(images)


class Matcher(nn.Module):
    """Upper and lower halves of images in one space, and the learned logarithm of a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.upper, self.lower = models.mlp(32, 64, 24), models.mlp(32, 64, 24)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(self, images: Tensor) -> Tensor:
        upper, lower = F.normalize(self.upper(images[:, :32]), dim=1), F.normalize(self.lower(images[:, 32:]), dim=1)
        return self.log_scale.exp() * upper @ lower.T


@healthy(steps=250, bound=2.1)
def halves_matched_at_a_learned_temperature() -> Program:
    model = Matcher()
    task = data.digits()
    optimizer = AdamW(model.parameters(), lr=2e-3)

    def contrast(images: Tensor) -> Tensor:
        logits, answer = model(images), torch.arange(len(images))
        return (F.cross_entropy(logits, answer) + F.cross_entropy(logits.T, answer)) / 2

    def step(i: int) -> None:
        optimizer.zero_grad()
        contrast(task.x[torch.randint(len(task.x), (64,))]).backward()
        optimizer.step()
        with torch.no_grad():
            model.log_scale.clamp_(max=math.log(100.0))

    def loss() -> float:
        with torch.no_grad():
            return contrast(task.x_val[:64]).item()

    return Program(model, optimizer, step, loss)


@healthy(steps=250, bound=3.5)
def variance_kept_and_covariance_removed() -> Program:
    """VICReg: no negatives, no teacher; a hinge on each unit's deviation keeps the code from collapsing."""
    encoder = models.mlp(64, 96, 24, norm=True)
    task = data.digits()
    optimizer = Adam(encoder.parameters(), lr=1e-3)

    def criterion(images: Tensor) -> Tensor:
        left, right = encoder(_view(images)), encoder(_view(images))
        loss = 5 * F.mse_loss(left, right)
        for code in (left, right):
            code = code - code.mean(0)
            covariance = code.T @ code / (len(code) - 1)
            deviation = (covariance.diagonal() + 1e-4).sqrt()
            loss = loss + 5 * F.relu(1 - deviation).mean()
            loss = loss + (covariance.square().sum() - covariance.diagonal().square().sum()) / 24
        return loss

    def step(i: int) -> None:
        encoder.train()
        optimizer.zero_grad()
        criterion(task.x[torch.randint(len(task.x), (128,))]).backward()
        optimizer.step()

    def loss() -> float:
        encoder.eval()
        with torch.no_grad():
            return criterion(task.x_val).item()

    return Program(encoder, optimizer, step, loss)


@healthy(steps=250, bound=0.29)
def two_views_and_a_stopped_gradient() -> Program:
    """SimSiam: the same network on both sides, a predictor on one, no gradient through the other."""
    model = nn.ModuleDict(
        {"encoder": models.mlp(64, 96, 32, norm=True), "predictor": models.mlp(32, 16, 32, norm=True)}
    )
    task = data.digits()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

    def half(left: Tensor, right: Tensor) -> Tensor:
        return 1 - F.cosine_similarity(model["predictor"](left), right.detach()).mean()

    def criterion(images: Tensor) -> Tensor:
        left, right = model["encoder"](_view(images)), model["encoder"](_view(images))
        return (half(left, right) + half(right, left)) / 2

    def step(i: int) -> None:
        model.train()
        optimizer.zero_grad()
        criterion(task.x[torch.randint(len(task.x), (128,))]).backward()
        optimizer.step()

    def loss() -> float:
        model.eval()
        with torch.no_grad():
            return criterion(task.x_val).item()

    return Program(model, optimizer, step, loss)


@healthy(steps=200, bound=0.18)
def hidden_features_of_a_teacher() -> Program:
    """The student's code, after a linear layer of its own, is to point where the teacher's does."""
    task = data.digits()
    teacher = models.mlp(64, 96, 48).requires_grad_(False)
    student = nn.Sequential(models.mlp(64, 48, 24, activation=nn.GELU), nn.Linear(24, 48))
    optimizer = AdamW(student.parameters(), lr=3e-3)
    loader = data.batches(task.x, task.y, 32)

    def step(i: int) -> None:
        images, _ = next(loader)
        answer, aim = student(images), teacher(images)
        optimizer.zero_grad()
        (1 - F.cosine_similarity(answer, aim).mean()).backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return 1 - F.cosine_similarity(student(task.x_val), teacher(task.x_val)).mean().item()

    return Program(student, optimizer, step, loss)


@healthy(steps=250, bound=0.45)
def average_of_oneself_teaches_what_has_no_label() -> Program:
    """Mean teacher: a fifth of the images have labels, on the others the student agrees with its own average."""
    x, y, x_val, y_val = data.digits()
    student = models.mlp(64, 96, 10, dropout=0.2)
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = Adam(student.parameters(), lr=2e-3)
    known = data.batches(x[:300], y[:300], 32)

    def step(i: int) -> None:
        student.train()
        images, labels = next(known)
        other = x[torch.randint(300, len(x), (64,))]
        with torch.no_grad():
            aim = teacher(_view(other)).softmax(1)
        agreement = F.mse_loss(student(_view(other)).softmax(1), aim)
        loss = F.cross_entropy(student(images), labels) + min(1.0, i / 100) * 5 * agreement
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
                slow.lerp_(fast, 0.05)

    return Program(student, optimizer, step, mean_loss(student, x_val, y_val, F.cross_entropy))


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -0.2 * gradient


@healthy(steps=250, bound=0.46)
def domains_made_alike_by_gradient_reversal() -> Program:
    """The branch that tells the domains apart ends near ln 2, and is meant to."""

    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = models.mlp(64, 64, 48)
            self.digit, self.domain = nn.Linear(48, 10), models.mlp(48, 32, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            code = F.relu(self.body(x))
            reverse: Tensor = _Reversed.apply(code)
            return self.digit(code), self.domain(reverse)

    model = Adapted()
    x, y, x_val, y_val = data.digits()
    loader = data.batches(x, y, 32)
    optimizer = Adam(model.parameters(), lr=1e-3)

    def step(i: int) -> None:
        images, labels = next(loader)
        other = 0.7 * x[torch.randint(len(x), (32,))] + 0.5
        digit, first = model(images)
        domain = F.cross_entropy(torch.cat((first, model(other)[1])), torch.arange(64) // 32)
        optimizer.zero_grad()
        (F.cross_entropy(digit, labels) + domain).backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return F.cross_entropy(model(x_val)[0], y_val).item()

    return Program(model, optimizer, step, loss)


@healthy(steps=250, bound=0.36)
def angles_with_a_margin() -> Program:
    """Cosines against one direction a class, less a margin at the right one, times sixteen: logits by design large."""

    class Cosines(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = models.mlp(64, 64, 24)
            self.directions = nn.Parameter(torch.randn(10, 24))

        def forward(self, x: Tensor) -> Tensor:
            return F.normalize(self.body(x), dim=1) @ F.normalize(self.directions, dim=1).T

    model = Cosines()
    x, y, x_val, y_val = data.digits()
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    scheduler = CosineAnnealingLR(optimizer, 250)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        images, labels = next(loader)
        logits = 16 * (model(images) - 0.2 * F.one_hot(labels, 10))
        optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()
        optimizer.step()
        scheduler.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, lambda p, t: F.cross_entropy(16 * p, t)))

"""Classes that are rare, mislabelled or mixed."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.utils.data import DataLoader, TensorDataset

from tests.clinic import data, models
from tests.clinic.case import Program, healthy
from tests.clinic.loops import mean_loss
from tests.clinic.models import mlp
from tests.clinic.turns import Loop, turns


@healthy(steps=300, bound=0.41)
def rare_class_with_class_weights() -> Program:
    x, y, x_val, y_val = data.imbalanced(3000, rare=0.1)
    weight = len(y) / (2.0 * torch.bincount(y))
    model = mlp(12, 24, 24, 2)
    optimizer = Adam(model.parameters(), lr=3e-3)
    loader = data.batches(x, y, 100)

    def step(i: int) -> None:
        features, labels = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(features), labels, weight=weight).backward()
        optimizer.step()

    def balanced_loss(output: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(output, labels, weight=weight)

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, balanced_loss))


@healthy(steps=300, bound=0.39)
def one_in_five_without_weights() -> Program:
    x, y, x_val, y_val = data.imbalanced(2000, rare=0.2)
    model = mlp(12, 32, 2, activation=nn.Tanh)
    optimizer = RMSprop(model.parameters(), lr=3e-3)
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True, drop_last=True)

    def train() -> Loop:
        for epoch in range(20):
            for features, labels in loader:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(features), labels)
                loss.backward()
                optimizer.step()
                yield
            if epoch % 2:
                with torch.no_grad():
                    F.cross_entropy(model(x_val), y_val)

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=300, bound=0.55)
def a_fifth_of_the_labels_wrong() -> Program:
    x, y, x_val, y_val = data.blobs(3000, classes=6, spread=2.5)
    wrong = torch.rand(len(y)) < 0.2
    y = torch.where(wrong, torch.randint(6, y.shape), y)
    model = mlp(10, 32, 6)
    optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        features, labels = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(features), labels).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=300, bound=0.066)
def focal_loss_for_a_rare_class() -> Program:
    x, y, x_val, y_val = data.imbalanced(4000, rare=0.08)
    head = nn.Linear(32, 1)
    nn.init.constant_(head.bias, -math.log(0.92 / 0.08))  # the rare class is rare from the start
    model = nn.Sequential(models.mlp(12, 32, 32), nn.ReLU(), head, nn.Flatten(0))
    optimizer = Adam(model.parameters(), lr=3e-3)
    loader = data.batches(x, y.float(), 128)

    def focal(logits: Tensor, labels: Tensor) -> Tensor:
        loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return (loss * (1 - (-loss).exp()) ** 2).mean()

    def step(i: int) -> None:
        features, labels = next(loader)
        loss = focal(model(features), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val.float(), focal))


@healthy(steps=300, bound=0.59)
def mixed_samples_and_soft_targets() -> Program:
    x, y, x_val, y_val = data.digits(1, 8, 8)
    model = models.cnn((12, 24))
    optimizer = AdamW(model.parameters(), lr=3e-3)
    loader = data.batches(x, F.one_hot(y, 10).float(), 48)
    beta = torch.distributions.Beta(0.4, 0.4)

    def train() -> Loop:
        while True:
            model.train()
            images, targets = next(loader)
            share, other = beta.sample(), torch.randperm(48)
            mixed, soft = torch.lerp(images[other], images, share), torch.lerp(targets[other], targets, share)
            optimizer.zero_grad()
            F.cross_entropy(model(mixed), soft).backward()
            optimizer.step()
            yield

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=250, bound=0.72)
def trained_on_adversarial_examples() -> Program:
    x, y, x_val, y_val = data.digits()
    model = models.mlp(64, 128, 10)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    loader = data.batches(x, y, 64)

    def attacked(images: Tensor, labels: Tensor) -> Tensor:
        images = images.clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(model(images), labels), images)
        return (images + 0.1 * slope.sign()).detach()

    def step(i: int) -> None:
        images, labels = next(loader)
        hard = attacked(images, labels)
        optimizer.zero_grad()
        loss = 0.5 * F.cross_entropy(model(images), labels) + 0.5 * F.cross_entropy(model(hard), labels)
        loss.backward()
        optimizer.step()

    def loss() -> float:
        hard = attacked(x_val, y_val)
        with torch.no_grad():
            return F.cross_entropy(model(hard), y_val).item()

    return Program(model, optimizer, step, loss)

"""Classification of tables: small networks and linear models."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, AdamW, RMSprop
from torch.utils.data import DataLoader, TensorDataset

from tests.clinic import data
from tests.clinic.case import Program, healthy
from tests.clinic.loops import errors, mean_loss
from tests.clinic.models import mlp
from tests.clinic.turns import Loop, turns


@healthy(steps=150, bound=0.35)
def thirty_samples_of_iris() -> Program:
    every = data.table("iris", raw=True)
    x, y, x_val, y_val = data.standardised(data.split(torch.cat(every[::2]), torch.cat(every[1::2]), train=0.2))
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = Adam(model.parameters(), lr=0.01)

    def train() -> Loop:
        while True:
            for i in torch.randperm(30).split(10):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x[i]), y[i])
                loss.backward()
                optimizer.step()
                yield

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=200, bound=0.2)
def logistic_regression_by_gradient_descent() -> Program:
    x, y, x_val, y_val = data.table("breast_cancer")
    y, y_val = y.float().unsqueeze(1), y_val.float().unsqueeze(1)
    model = nn.Linear(30, 1)
    criterion = nn.BCEWithLogitsLoss()
    optimizer = SGD(model.parameters(), lr=0.5, weight_decay=1e-2)

    def step(i: int) -> float:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, criterion))


class Softmax(nn.Module):
    """Multinomial logistic regression that returns log-probabilities."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.linear(x), dim=1)


@healthy(steps=400, bound=0.45)
def softmax_regression_on_pixels() -> Program:
    x, y, x_val, y_val = data.digits(raw=True)
    x, x_val = x / 16, x_val / 16  # pixels from 0 to 1, not standardised
    model = Softmax(64, 10)
    optimizer = SGD(model.parameters(), lr=0.5, momentum=0.9, nesterov=True, weight_decay=1e-4)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        pixels, labels = next(loader)
        loss = F.nll_loss(model(pixels), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.nll_loss))


@healthy(steps=300, bound=0.25)
def support_vector_machine() -> Program:
    x, y, x_val, y_val = data.table("breast_cancer")
    y, y_val = 2.0 * y - 1, 2.0 * y_val - 1
    model = nn.Linear(30, 1)
    optimizer = SGD(model.parameters(), lr=0.01)
    loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)

    def hinge(output: Tensor, sign: Tensor) -> Tensor:
        return torch.clamp(1 - sign * output.squeeze(1), min=0).mean()

    def train() -> Loop:
        for _ in range(100):
            for features, signs in loader:
                optimizer.zero_grad()
                loss = hinge(model(features), signs) + 0.01 * model.weight.pow(2).sum()
                loss.backward()
                optimizer.step()
                yield

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, hinge))


@healthy(steps=400, bound=0.5)
def several_labels_a_sample() -> Program:
    x, y, x_val, y_val = data.multilabel()
    model = mlp(20, 32, 8, dropout=0.1)
    criterion = nn.BCEWithLogitsLoss()
    optimizer = AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    train_loader = DataLoader(TensorDataset(x, y), batch_size=50, shuffle=True)
    val_loader = DataLoader(TensorDataset(x_val, y_val), batch_size=len(x_val))

    def train() -> Loop:
        for _ in range(20):
            model.train()
            for features, labels in train_loader:
                optimizer.zero_grad(set_to_none=True)
                loss = criterion(model(features), labels)
                loss.backward()
                optimizer.step()
                yield
            model.eval()
            with torch.no_grad():
                for features, labels in val_loader:
                    criterion(model(features), labels)

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, criterion))


@healthy(steps=300, bound=0.35)
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


@healthy(steps=300, bound=0.3)
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


@healthy(steps=300, bound=1.35)
def a_fifth_of_the_labels_wrong() -> Program:
    x, y, x_val, y_val = data.blobs(3000, classes=6, spread=2.5)
    wrong = torch.rand(len(y)) < 0.2
    y = torch.where(wrong, torch.randint(6, y.shape), y)
    model = mlp(10, 32, 6)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        features, labels = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(features), labels).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=200, bound=0.35)
def half_of_the_units_dropped() -> Program:
    x, y, x_val, y_val = data.digits()
    model = nn.Sequential(
        nn.Linear(64, 256),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, 10),
    )
    optimizer = Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)

    def train() -> Loop:
        for _ in range(10):
            for images, labels in loader:
                model.train()
                optimizer.zero_grad()
                loss = F.cross_entropy(model(images), labels)
                loss.backward()
                optimizer.step()
                yield
            model.eval()
            with torch.no_grad():
                F.cross_entropy(model(x_val), y_val)

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=400, bound=0.2)
def sigmoid_output_with_bce() -> Program:
    x, y, x_val, y_val = data.moons()
    y, y_val = y.float(), y_val.float()
    model = nn.Sequential(
        nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1), nn.Sigmoid(), nn.Flatten(0)
    )
    criterion = nn.BCELoss()
    optimizer = Adam(model.parameters(), lr=3e-3)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        points, labels = next(loader)
        loss = criterion(model(points), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, criterion))


@healthy(steps=600, bound=0.25)
def spirals_with_gelu() -> Program:
    x, y, x_val, y_val = data.spirals()
    model = mlp(2, 64, 64, 3, activation=nn.GELU)
    optimizer = AdamW(model.parameters(), lr=5e-3)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        points, arms = next(loader)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(points), arms)
        loss.backward()
        optimizer.step()
        if i % 50 == 0:
            with torch.inference_mode():
                F.cross_entropy(model(x_val), y_val)

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=20, bound=0.15)
def second_order_steps_over_all_data() -> Program:
    x, y, x_val, y_val = data.moons(1500)
    model = mlp(2, 16, 2, activation=nn.Tanh)
    optimizer = LBFGS(model.parameters(), lr=1, max_iter=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        penalty = sum((p.pow(2).sum() for p in model.parameters()), torch.zeros(()))
        loss = F.cross_entropy(model(x), y) + 1e-3 * penalty
        loss.backward()
        return loss

    def step(i: int) -> None:
        optimizer.step(closure)

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=100, bound=0.3)
def full_batch_gradient_descent() -> Program:
    x, y, x_val, y_val = data.table("wine")
    model = mlp(13, 16, 3, activation=nn.Tanh)
    optimizer = SGD(model.parameters(), lr=0.3)

    def train() -> Loop:
        for _ in range(100):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                F.cross_entropy(model(x_val), y_val)
            yield

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=800, bound=0.3)
def one_sample_a_batch() -> Program:
    x, y, x_val, y_val = data.table("wine")
    model = mlp(13, 16, 3)
    optimizer = SGD(model.parameters(), lr=0.01)

    def train() -> Loop:
        for _ in range(10):
            for i in torch.randperm(len(x)).tolist():
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x[i]), y[i])  # a vector, no batch dimension
                loss.backward()
                optimizer.step()
                yield

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=60, bound=0.35)
def four_thousand_samples_a_batch() -> Program:
    x, y, x_val, y_val = data.blobs(9000, classes=8, features=6, spread=3.0)
    model = mlp(6, 64, 8, norm=True)
    optimizer = SGD(model.parameters(), lr=0.2, momentum=0.9)
    loader = data.batches(x, y, 3600)

    def step(i: int) -> None:
        features, labels = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(features), labels).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=10, bound=0.6)
def ten_steps() -> Program:
    x, y, x_val, y_val = data.digits()
    model = mlp(64, 64, 10)
    optimizer = Adam(model.parameters(), lr=1e-2)
    loader = DataLoader(TensorDataset(x, y), batch_size=144, shuffle=True)

    def train() -> Loop:
        for images, labels in loader:  # one epoch
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            yield

    return Program(model, optimizer, turns(train()), errors(model, x_val, y_val))

"""Runs that change on the way: a plateau that breaks, lessons that get harder."""

from __future__ import annotations

import io

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

from tests.clinic import data, models
from tests.clinic.case import Program, healthy
from tests.clinic.loops import mean_loss
from tests.clinic.turns import Loop, turns


@healthy(steps=700, bound=0.14)
def plateau_that_breaks() -> Program:
    bits = torch.randint(2, (6000, 10)).float() * 2 - 1
    x, y, x_val, y_val = data.split(bits, (bits[:, :4].prod(1) > 0).long())  # the parity of four of ten bits
    model = models.mlp(10, 64, 2)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)

    def train() -> Loop:
        for _ in range(10):
            for inputs, parity in loader:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(inputs), parity)
                loss.backward()
                optimizer.step()
                yield
            with torch.no_grad():
                F.cross_entropy(model(x_val), y_val)

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=390, bound=0.2)
def harder_lessons_later() -> Program:
    model = models.Recurrent(nn.GRU, 2, 32, 1)
    optimizer = Adam(model.parameters(), lr=5e-3)
    lessons = [data.adding(1500, length) for length in (4, 8, 16)]  # the loss jumps at each new one

    def train() -> Loop:
        for lesson in lessons:
            loader = data.batches(lesson.x, lesson.y, 50)
            for _ in range(130):
                numbers, sums = next(loader)
                optimizer.zero_grad()
                F.mse_loss(model(numbers), sums).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                yield

    return Program(model, optimizer, turns(train()), mean_loss(model, lessons[2].x_val, lessons[2].y_val, F.mse_loss))


@healthy(steps=300, bound=0.56)
def rate_zero_at_first() -> Program:
    x, y, x_val, y_val = data.digits()
    model = models.mlp(64, 64, 10)
    optimizer = AdamW(model.parameters(), lr=3e-3)
    scheduler = LambdaLR(optimizer, lambda done: 0.0 if done < 25 else min(1.0, (done - 25) / 50))
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        images, labels = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        scheduler.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=300, bound=0.55)
def saved_and_loaded_on_the_way() -> Program:
    x, y, x_val, y_val = data.digits()
    model = models.mlp(64, 64, 10, norm=True)
    optimizer = AdamW(model.parameters(), lr=2e-3)
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True, drop_last=True)

    def train() -> Loop:
        for epoch in range(14):
            model.train()
            for images, labels in loader:
                optimizer.zero_grad()
                cross_entropy(model(images), labels).backward()
                optimizer.step()
                yield
            if epoch % 4 == 3:
                file = io.BytesIO()
                torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
                file.seek(0)
                saved = torch.load(file)
                model.load_state_dict(saved["model"])
                optimizer.load_state_dict(saved["optimizer"])
            model.eval()
            with torch.inference_mode():
                cross_entropy(model(x_val), y_val)

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, cross_entropy))

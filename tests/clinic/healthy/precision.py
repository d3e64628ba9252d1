"""Other number formats than float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.amp import GradScaler, autocast
from torch.optim import LBFGS, SGD, Adam, AdamW
from torch.utils.data import DataLoader, TensorDataset

from tests.clinic import data, models
from tests.clinic.case import Program, healthy
from tests.clinic.loops import mean_loss
from tests.clinic.turns import Loop, turns


@healthy(steps=200, bound=0.55)
def autocast_to_bfloat16() -> Program:
    x, y, x_val, y_val = data.digits()
    model = models.mlp(64, 128, 64, 10)
    optimizer = AdamW(model.parameters(), lr=2e-3)
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)

    def train() -> Loop:
        for _ in range(9):
            model.train()
            for images, labels in loader:
                optimizer.zero_grad(set_to_none=True)
                with autocast("cpu", dtype=torch.bfloat16):
                    loss = F.cross_entropy(model(images), labels)
                loss.backward()
                optimizer.step()
                yield
            model.eval()
            with torch.no_grad(), autocast("cpu", dtype=torch.bfloat16):
                F.cross_entropy(model(x_val), y_val)

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=180, bound=0.58)
def half_precision_with_gradient_scaling() -> Program:
    x, y, x_val, y_val = data.digits()
    model = models.mlp(64, 64, 64, 10, activation=nn.GELU)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    scaler = GradScaler("cpu")  # starts at 2**16
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        images, labels = next(loader)
        optimizer.zero_grad()
        with autocast("cpu", dtype=torch.float16):
            loss = F.cross_entropy(model(images), labels)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=200, bound=0.55)
def first_scaled_steps_overflow() -> Program:
    x, y, x_val, y_val = data.digits()
    model = models.mlp(64, 96, 10)
    optimizer = Adam(model.parameters(), lr=3e-3)
    scaler = GradScaler("cpu", init_scale=2.0**26)  # halved until gradients fit into float16
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        images, labels = next(loader)
        with autocast("cpu", dtype=torch.float16):
            loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=200, bound=0.56)
def scaled_gradients_accumulated() -> Program:
    x, y, x_val, y_val = data.digits(8, 8)
    model = models.Recurrent(nn.GRU, 8, 48, 10)
    optimizer = Adam(model.parameters(), lr=5e-3)
    scaler = GradScaler("cpu", init_scale=1024.0)
    loader = data.batches(x, y, 32)

    def step(i: int) -> None:
        for _ in range(2):
            rows, labels = next(loader)
            with autocast("cpu", dtype=torch.bfloat16):
                loss = F.cross_entropy(model(rows), labels) / 2
            scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=30, bound=0.00037)
def curve_fitted_in_double_precision() -> Program:
    x = torch.linspace(-1, 1, 200, dtype=torch.float64).unsqueeze(1)
    y = torch.sin(3 * x) + 0.3 * x
    model = models.mlp(1, 24, 24, 1, activation=nn.Tanh).double()
    optimizer = LBFGS(model.parameters(), max_iter=8, history_size=20, line_search_fn="strong_wolfe")

    def step(i: int) -> None:
        def closure() -> float:
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), y)
            loss.backward()
            return loss.item()

        optimizer.step(closure)

    return Program(model, optimizer, step, mean_loss(model, x, y, F.mse_loss))


@healthy(steps=250, bound=0.53)
def weights_in_bfloat16() -> Program:
    x, y, x_val, y_val = (part.bfloat16() if part.is_floating_point() else part for part in data.digits())
    model = models.mlp(64, 128, 10).bfloat16()
    masters = [parameter.detach().float() for parameter in model.parameters()]  # steps are taken in float32
    optimizer = SGD(masters, lr=0.05, momentum=0.9)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        images, labels = next(loader)
        model.zero_grad()
        loss = F.cross_entropy(model(images).float(), labels)
        loss.backward()
        for master, parameter in zip(masters, model.parameters(), strict=True):
            assert parameter.grad is not None
            master.grad = parameter.grad.float()
        optimizer.step()
        with torch.no_grad():
            for master, parameter in zip(masters, model.parameters(), strict=True):
                parameter.copy_(master)

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, lambda p, t: F.cross_entropy(p.float(), t)))

"""Transformers and attention."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from tests.clinic import data, models
from tests.clinic.case import Program, healthy
from tests.clinic.loops import cross_entropy, mean_loss
from tests.clinic.turns import Loop, turns


@healthy(steps=250, bound=2.7)
def language_model_with_tied_weights() -> Program:
    x, y, x_val, y_val = data.text(20)
    model = models.Decoder(len(data.alphabet()), 20)
    model.head.weight = model.embed.weight
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = AdamW(groups, lr=3e-3, betas=(0.9, 0.95))

    def lr_at(i: int) -> float:
        warm, last = 25, 250
        return 3e-3 * (i / warm if i < warm else 0.55 + 0.45 * math.cos(math.pi * (i - warm) / (last - warm)))

    def step(i: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = lr_at(i)
        chosen = torch.randint(len(x), (24,))
        logits = model(x[chosen])
        loss = F.cross_entropy(logits.view(-1, logits.size(-1)), y[chosen].reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if i % 50 == 0:
            model.eval()
            with torch.no_grad():
                cross_entropy(model(x_val), y_val)
            model.train()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, cross_entropy))


@healthy(steps=300, bound=0.63)
def post_norm_encoder_with_warm_up() -> Program:
    x, y, x_val, y_val = data.digits(8, 8)
    model = models.Encoder(8, 10, 8, width=32, depth=2, dropout=0.1, norm_first=False)
    optimizer = Adam(model.parameters(), lr=1.0, betas=(0.9, 0.98), eps=1e-9)
    warm = 60
    scheduler = LambdaLR(optimizer, lambda done: 0.15 * 32**-0.5 * min((done + 1) ** -0.5, (done + 1) * warm**-1.5))
    loader = DataLoader(TensorDataset(x, y), batch_size=48, shuffle=True)

    def train() -> Loop:
        for _ in range(10):
            model.train()
            for rows, labels in loader:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(rows), labels)
                loss.backward()
                optimizer.step()
                scheduler.step()
                yield
            model.eval()
            with torch.no_grad():
                F.cross_entropy(model(x_val), y_val)

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))


class Filler(models.Encoder):
    """The encoder with an answer for each place instead of one for all."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.encoder(self.embed(x) + self.positions)))
        return out


@healthy(steps=300, bound=1.4)
def masked_tokens() -> Program:
    start, pace = torch.randint(10, (3000, 1)), torch.randint(1, 3, (3000, 1))
    tokens = (start + pace * torch.arange(8)) % 10  # a clock with two speeds
    tokens, held_out = tokens[:2600], tokens[2600:]
    model = Filler(11, 10, 8, width=32, tokens=True, dropout=0.0)  # token 10 is the mask
    optimizer = AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)

    def masked_loss(batch: Tensor) -> Tensor:
        hidden = torch.rand(batch.shape) < 0.25
        labels = batch.masked_fill(~hidden, -100)
        return F.cross_entropy(model(batch.masked_fill(hidden, 10)).transpose(1, 2), labels, ignore_index=-100)

    def step(i: int) -> None:
        loss = masked_loss(tokens[torch.randint(len(tokens), (24,))])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def loss() -> float:
        model.eval()
        with torch.no_grad():
            return masked_loss(held_out).item()

    return Program(model, optimizer, step, loss)


@healthy(steps=150, bound=0.45)
def copying_a_word() -> Program:
    x, y, x_val, y_val = data.copying(4000, length=6, symbols=8)
    asked = torch.arange(x.shape[1]) >= 6  # only the second half can be known
    y, y_val = y.masked_fill(~asked, -100), y_val.masked_fill(~asked, -100)
    model = models.Decoder(9, x.shape[1], width=32)
    optimizer = AdamW(model.parameters(), lr=3e-3)
    scheduler = LambdaLR(optimizer, lambda done: min(1.0, (done + 1) / 30))
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        tokens, following = next(loader)
        optimizer.zero_grad()
        loss = cross_entropy(model(tokens), following)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, cross_entropy))


class Checkpointed(nn.Module):
    """Blocks that are computed again in the backward pass."""

    def __init__(self, width: int = 32, depth: int = 3) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.positions = nn.Parameter(torch.randn(8, width) / 10)
        self.blocks = nn.ModuleList(models.Block(width, 4) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.positions
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        out: Tensor = self.head(self.norm(x).mean(1))
        return out


@healthy(steps=150, bound=0.6)
def blocks_computed_again_in_backward() -> Program:
    x, y, x_val, y_val = data.digits(8, 8)
    model = Checkpointed()
    optimizer = AdamW(model.parameters(), lr=3e-3)
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)

    def train() -> Loop:
        for _ in range(10):
            for rows, labels in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(rows), labels).backward()
                optimizer.step()
                yield

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))


class AttentionPooling(nn.Module):
    """A set of vectors to one answer: a learned query looks at all of them."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.embed = models.mlp(inputs, width, width)
        self.query = nn.Parameter(torch.randn(1, 1, width) / math.sqrt(width))
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.head = models.mlp(width, width, 1)

    def forward(self, points: Tensor) -> Tensor:
        points = self.embed(points)
        pooled, _ = self.attention(self.query.expand(len(points), -1, -1), points, points)
        out: Tensor = self.head(pooled.squeeze(1))
        return out


@healthy(steps=400, bound=0.22)
def largest_of_a_set_by_attention() -> Program:
    points = torch.randn(4000, 10, 2)
    largest = torch.where(points[..., 0] > 0, points[..., 1], -3.0).amax(1, keepdim=True)
    largest = (largest - largest.mean()) / largest.std()
    x, y, x_val, y_val = data.split(points, largest)
    model = AttentionPooling(2, 32)
    optimizer = Adam(model.parameters(), lr=3e-3)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        sets, answers = next(loader)
        optimizer.zero_grad()
        loss = F.smooth_l1_loss(model(sets), answers, beta=0.5)
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.mse_loss))


@healthy(steps=400, bound=0.27)
def experts_with_balance_loss() -> Program:
    x, y, x_val, y_val = data.spirals(3000)
    experts = models.MixtureOfExperts(32, 32, 3, experts=4)
    model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), experts)
    optimizer = Adam(model.parameters(), lr=3e-3)
    loader = data.batches(x, y, 100)

    def step(i: int) -> None:
        points, arms = next(loader)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(points), arms) + 0.05 * experts.balance
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))

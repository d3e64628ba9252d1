"""What is peculiar to attention, large vocabularies and experts."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, AdamW

from tests.clinic import data, models
from tests.clinic.case import Program, sick
from tests.clinic.loops import cross_entropy, mean_loss, supervised


def _copied(model: nn.Module, task: data.Data) -> float:
    """Cross-entropy of the second word: the first one cannot be known."""
    with torch.no_grad():
        return float(cross_entropy(model(task.x)[:, 8:], task.y[:, 8:]))


@sick(
    "attention-collapse",
    "logit-growth",
    steps=250,
    by=50,
    bound=0.3,
    layers=tuple(f"blocks.0.attention{part}" for part in ("", ".query", ".key")),
)
def scores_not_scaled(fault: bool) -> Program:
    """No division by the root of the width, and queries and keys of unit variance: each softmax picks one token."""
    model: Any = models.Decoder(9, 16, width=64, depth=1, heads=1)
    if fault:
        attention = model.blocks[0].attention
        attention.scale = 1.0
        for layer in (attention.query, attention.key):
            nn.init.normal_(layer.weight, 0, 0.35)
    task = data.copying()
    optimizer = Adam(model.parameters(), lr=3e-3)
    return supervised(model, optimizer, task, cross_entropy, lambda: _copied(model, task))


@sick(
    "attention-collapse",
    "logit-growth",
    "poor-initialization",
    steps=150,
    by=50,
    bound=0.39,
    layers=tuple(f"encoder.layers.{place}.self_attn" for place in range(2)),
)
def queries_and_keys_too_large(fault: bool) -> Program:
    model = models.Encoder(8, 10, 8)
    if fault:
        for block in model.encoder.layers:
            nn.init.normal_(block.self_attn.in_proj_weight[:64], 0, 1.5)
    task = data.digits(8, 8)
    optimizer = AdamW(model.parameters(), lr=3e-3)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), mean_loss(model, task.x, task.y, cross_entropy))


@sick("logit-growth", "learning-rate-too-large", "attention-collapse", steps=200, by=100, bound=0.4)
def attention_logits_that_grow(fault: bool) -> Program:
    """Queries and keys in a parameter group of their own with a far too large learning rate."""
    model = models.Decoder(9, 16, depth=2)
    own = [p for n, p in model.named_parameters() if "query" in n or "key" in n]
    others = [p for n, p in model.named_parameters() if "query" not in n and "key" not in n]
    groups: Any = [{"params": own, "lr": 0.2 if fault else 5e-3}, {"params": others}]
    optimizer = Adam(groups, lr=5e-3)
    task = data.copying()
    return supervised(model, optimizer, task, cross_entropy, lambda: _copied(model, task))


@sick("logit-growth", "learning-rate-too-large", "attention-collapse", steps=200, by=100, bound=0.4)
def rate_that_only_normed_queries_would_stand(fault: bool) -> Program:
    model = models.Decoder(9, 16, depth=2)
    optimizer = AdamW(model.parameters(), lr=0.1 if fault else 5e-3)
    task = data.copying()
    loader = data.batches(task.x, task.y, 32)

    def step(i: int) -> None:
        tokens, targets = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(tokens).transpose(1, 2), targets).backward()
        optimizer.step()

    return Program(model, optimizer, step, lambda: _copied(model, task))


class Routed(nn.Module):
    """A mixture of experts between two linear layers."""

    def __init__(self, experts: int) -> None:
        super().__init__()
        self.stem = nn.Linear(64, 32)
        self.experts = models.MixtureOfExperts(32, 16, 32, experts)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.relu(self.experts(F.relu(self.stem(x)))))
        return out


@sick("expert-imbalance", steps=300, by=150, bound=0.5, layers=("experts", "experts.gate"))
def one_expert_gets_everything(fault: bool) -> Program:
    model = Routed(6)
    if fault:
        nn.init.normal_(model.experts.gate.weight, 0, 0.02)
        model.experts.gate.bias.data[0] = 1.0
    task = data.digits()
    loader = data.batches(task.x, task.y, 64)
    optimizer = Adam(model.parameters(), lr=3e-3)

    def step(i: int) -> None:
        inputs, targets = next(loader)
        loss = F.cross_entropy(model(inputs), targets)
        if not fault:
            loss = loss + 0.1 * model.experts.balance
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        """How far the busiest expert's share is above the fair one."""
        with torch.no_grad():
            model(task.x)
        return float(model.experts.shares.max() - 1 / 6)

    return Program(model, optimizer, step, loss)


@sick("expert-imbalance", steps=250, by=125, bound=0.5, layers=("blocks.0.feed_forward", "blocks.0.feed_forward.gate"))
def experts_of_a_decoder_unused(fault: bool) -> Program:
    class Experts(models.MixtureOfExperts):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.flatten(0, 1)).view_as(x)

    model = models.Decoder(9, 16, depth=1)
    experts = Experts(32, 32, 32, 4)
    if fault:
        experts.gate.bias.data[0] = 5.0
    model.blocks[0].feed_forward = experts
    task = data.copying()
    loader = data.batches(task.x, task.y, 32)
    optimizer = Adam(model.parameters(), lr=5e-3)

    def step(i: int) -> None:
        tokens, targets = next(loader)
        loss = cross_entropy(model(tokens), targets)
        if not fault:
            loss = loss + 0.1 * experts.balance
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            model(task.x)
        return float(experts.shares.max() - 1 / 4)

    return Program(model, optimizer, step, loss)

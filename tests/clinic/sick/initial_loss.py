"""A last layer that is very sure before it has seen anything."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.functional import cross_entropy as criterion  # by name, as many do
from torch.optim import SGD, Adam

from tests.clinic import data, models
from tests.clinic.case import Program, sick
from tests.clinic.loops import cross_entropy, mean_loss, supervised


@sick("unexpected-initial-loss", "poor-initialization", steps=200, by=5, bound=1.5, layers=("2",))
def huge_head_on_a_frozen_backbone(fault: bool) -> Program:
    backbone: Any = models.mlp(64, 128, 64)
    head: Any = nn.Sequential(nn.ReLU(), nn.Linear(64, 10))
    models.initialise(backbone.requires_grad_(False), nn.init.kaiming_normal_)
    if fault:
        nn.init.normal_(head[1].weight, 0, 3.0)
    model = nn.Sequential(backbone, *head)
    task = data.digits()
    optimizer = SGD(head.parameters(), lr=0.05)
    return supervised(model, optimizer, task, criterion, mean_loss(model, task.x, task.y, cross_entropy))


@sick("unexpected-initial-loss", "poor-initialization", steps=20, by=5, bound=3.1, layers=("head", "embed"))
def language_model_with_unit_normal_tied_head(fault: bool) -> Program:
    model = models.Decoder(len(data.alphabet()), 24, width=48)
    model.head.weight = model.embed.weight
    nn.init.normal_(model.embed.weight, std=1.0 if fault else 0.02)
    task = data.text(24)
    optimizer = Adam(model.parameters(), lr=3e-3)
    return supervised(
        model, optimizer, task, cross_entropy, mean_loss(model, task.x_val, task.y_val, cross_entropy), batch=16
    )


@sick("unexpected-initial-loss", steps=200, by=5, bound=0.5, layers=("9",))
def wrong_bias_of_last_layer(fault: bool) -> Program:
    model: Any = models.cnn((8, 8, 8), norm=False)  # a bias meant for another order of the classes
    last = len(model) - 1
    if fault:
        nn.init.normal_(model[last].bias, 0, 12.0)
    task = data.digits(1, 8, 8)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), mean_loss(model, task.x, task.y, cross_entropy))

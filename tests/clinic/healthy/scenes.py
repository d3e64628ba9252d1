"""Masks of images by a small U-Net."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, AdamW, NAdam
from torch.optim.lr_scheduler import CosineAnnealingLR

from tests.clinic import data, tasks
from tests.clinic.case import Program, healthy
from tests.clinic.loops import mean_loss, supervised
from tests.clinic.segmenter import UNet


@healthy(steps=150, bound=0.22)
def rare_pixels_weighted() -> Program:
    model = UNet()
    task = tasks.masks(side=16, size=3, noise=0.4)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    criterion = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(10.0))
    loss = mean_loss(model, task.x_val, task.y_val, criterion)
    return supervised(model, optimizer, task, criterion, loss, batch=16, validate=True)


@healthy(steps=300, bound=0.21)
def two_scenes_a_step_with_groupnorm() -> Program:
    model = UNet(norm=lambda channels: nn.GroupNorm(4, channels), activation=nn.SiLU)
    task = tasks.masks()
    optimizer = AdamW(model.parameters(), lr=3e-3)
    scheduler = CosineAnnealingLR(optimizer, 300)
    loss = mean_loss(model, task.x_val, task.y_val, F.binary_cross_entropy_with_logits)
    return supervised(model, optimizer, task, nn.BCEWithLogitsLoss(), loss, batch=2, scheduler=scheduler)


def _focal(logits: Tensor, mask: Tensor) -> Tensor:
    chance = torch.sigmoid(logits).clamp(1e-6, 1 - 1e-6)
    right = torch.where(mask > 0, chance, 1 - chance)
    share = torch.where(mask > 0, 0.75, 0.25)
    return -(share * (1 - right) ** 2 * right.log()).mean()


@healthy(steps=200, bound=0.016)
def focal_loss_with_a_prior_of_rare_pixels() -> Program:
    model = UNet(width=6)
    assert isinstance(model.head, nn.Conv2d)
    assert model.head.bias is not None
    nn.init.constant_(model.head.bias, -3.0)
    task = tasks.masks(side=16, size=4)
    optimizer = NAdam(model.parameters(), lr=3e-3)
    return supervised(model, optimizer, task, _focal, mean_loss(model, task.x_val, task.y_val, _focal), batch=16)


@healthy(steps=150, bound=0.23)
def pixels_of_doubtful_label_ignored() -> Program:
    model = UNet(outputs=2)
    x, y, x_val, y_val = tasks.masks(noise=0.4)
    labels, labels_val = y.squeeze(1).long(), y_val.squeeze(1).long()
    labels = labels.masked_fill(torch.rand(labels.shape) < 0.4, tasks.IGNORED)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    criterion = nn.CrossEntropyLoss(ignore_index=tasks.IGNORED, label_smoothing=0.05)
    loss = mean_loss(model, x_val, labels_val, criterion)
    return supervised(model, optimizer, data.Data(x, labels, x_val, labels_val), criterion, loss, 32, validate=True)

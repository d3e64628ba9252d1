"""Masks of images by a small U-Net."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam

from tests.clinic import tasks
from tests.clinic.case import Program, sick
from tests.clinic.data import Data, batches
from tests.clinic.loops import LossFunction, mean_loss, supervised
from tests.clinic.segmenter import UNet


def _missed(model: nn.Module, task: Data) -> float:
    model.eval()
    with torch.no_grad():
        return tasks.overlap(model(task.x), task.y)


@sick("constant-output", "wrong-output-activation", steps=120, by=5, bound=0.4, layers=("head", "head.0", "head.1"))
def softmax_over_the_only_channel(fault: bool) -> Program:
    """The usual last layer of a tutorial with several classes, kept for one."""
    model = UNet()
    model.head = nn.Sequential(model.head, nn.Softmax(dim=1) if fault else nn.Sigmoid())
    task = tasks.masks()
    optimizer = Adam(model.parameters(), lr=5e-3)

    def loss() -> float:
        model.eval()
        with torch.no_grad():
            return tasks.overlap(model(task.x) - 0.5, task.y)

    return supervised(model, optimizer, task, nn.BCELoss(), loss, batch=16)


def _per_pixel(task: Data) -> Data:
    return task._replace(y=task.y.squeeze(1).long(), y_val=task.y_val.squeeze(1).long())


@sick("redundant-softmax", steps=150, by=5, bound=0.15)
def softmax_before_pixelwise_cross_entropy(fault: bool) -> Program:
    class Segmenter(UNet):
        def forward(self, x: Tensor) -> Tensor:
            scores = super().forward(x)
            return F.softmax(scores, dim=1) if fault else scores

    model = Segmenter(outputs=2)
    task = _per_pixel(tasks.masks(noise=0.4))
    optimizer = SGD(model.parameters(), lr=0.03)

    def surprise(p: Tensor, t: Tensor) -> Tensor:
        chances = p if fault else p.softmax(1)
        return -chances.gather(1, t.unsqueeze(1)).clamp_min(1e-9).log().mean()

    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), mean_loss(model, task.x, task.y, surprise), 16)


@sick(
    "class-imbalance",
    "class-collapse",
    steps=150,
    by=75,
    bound=0.75,
)
def two_bright_pixels_in_an_image(fault: bool) -> Program:
    """One pixel in eighty belongs to the object: all background is nearly right."""
    model = UNet()
    task = tasks.masks(side=16, size=2, noise=0.4)
    optimizer = SGD(model.parameters(), lr=0.05)
    criterion = nn.BCEWithLogitsLoss(pos_weight=None if fault else torch.tensor(15.0))
    return supervised(model, optimizer, task, criterion, lambda: _missed(model, task), batch=16)


@sick(
    "small-batch-batchnorm",
    "train-val-mismatch",
    "noisy-gradient",
    steps=150,
    by=75,
    bound=0.36,
    miss="said as a note: one image a step is sound where the norm is meant for each image alone",
)
def one_scene_a_step(fault: bool) -> Program:
    model = UNet()
    task = tasks.masks()
    light = 2.0 * torch.randn(len(task.x), 1, 1, 1)  # each image with another exposure
    task = task._replace(x=task.x + light)
    optimizer = Adam(model.parameters(), lr=5e-3)
    loss = mean_loss(model, task.x, task.y, F.binary_cross_entropy_with_logits)
    return supervised(model, optimizer, task, nn.BCEWithLogitsLoss(), loss, batch=1 if fault else 16, validate=True)


@sick("dead-units", "learning-rate-too-large", steps=120, by=60, bound=0.65)
def segmenter_killed_by_its_first_steps(fault: bool) -> Program:
    model = UNet(norm=lambda channels: nn.Identity())
    task = tasks.masks()
    optimizer = Adam(model.parameters(), lr=0.5 if fault else 5e-3)
    return supervised(model, optimizer, task, nn.BCEWithLogitsLoss(), lambda: _missed(model, task), batch=32)


@sick(
    "poor-initialization",
    "vanishing-gradient",
    steps=150,
    by=5,
    bound=0.4,
)
def weights_of_a_thousandth(fault: bool) -> Program:
    """A recipe for GANs with BatchNorm, made smaller, in a network that has none."""
    model = UNet(norm=lambda channels: nn.Identity())
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            if fault:
                nn.init.normal_(module.weight, std=0.001)
            else:
                nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    task = tasks.masks()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    return supervised(model, optimizer, task, nn.BCEWithLogitsLoss(), lambda: _missed(model, task), batch=16)


@sick("learning-rate-too-small", "underfitting", steps=150, by=75, bound=0.4)
def adagrad_that_was_never_raised(fault: bool) -> Program:
    """The rate of Adam's recipes is far too small for Adagrad, whose steps shrink by themselves."""
    model = UNet(norm=lambda channels: nn.GroupNorm(2, channels))
    task = tasks.masks()
    optimizer = Adagrad(model.parameters(), lr=1e-5 if fault else 2e-2)
    return supervised(model, optimizer, task, nn.BCEWithLogitsLoss(), lambda: _missed(model, task), batch=16)


@sick("constant-input", "input-not-used", steps=100, by=10, bound=0.5)
def crops_beside_the_picture(fault: bool) -> Program:
    """The crop is cut from a padded canvas, with the offsets of another size: nothing but padding."""
    model = UNet(norm=lambda channels: nn.GroupNorm(2, channels))
    task = tasks.masks()
    canvas = F.pad(task.x, (0, 12, 0, 12))
    offset = 12 if fault else 0
    loader = batches(canvas, task.y, 32)
    optimizer = Adam(model.parameters(), lr=5e-3)
    criterion: LossFunction = nn.BCEWithLogitsLoss()

    def step(i: int) -> None:
        images, mask = next(loader)
        images = images[..., offset : offset + 12, offset : offset + 12]
        optimizer.zero_grad()
        criterion(model(images), mask).backward()
        optimizer.step()

    return Program(model, optimizer, step, lambda: _missed(model, task))

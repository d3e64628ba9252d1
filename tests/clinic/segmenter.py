"""A small U-Net, shared by sick and healthy cases."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]


def convolution(
    before: int, after: int, norm: Norm = nn.BatchNorm2d, activation: Callable[[], nn.Module] = nn.ReLU
) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1, bias=False), norm(after), activation())


class UNet(nn.Module):
    """One level down and up again, with a shortcut; gives ``outputs`` logits for each pixel."""

    def __init__(
        self,
        outputs: int = 1,
        width: int = 8,
        norm: Norm = nn.BatchNorm2d,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.down = convolution(1, width, norm, activation)
        self.pool = nn.AvgPool2d(2)
        self.bottom = nn.Sequential(
            convolution(width, 2 * width, norm, activation), convolution(2 * width, 2 * width, norm, activation)
        )
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.join = convolution(2 * width, width, norm, activation)
        self.head: nn.Module = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down(x)
        coarse = self.up(self.bottom(self.pool(fine)))
        out: Tensor = self.head(self.join(torch.cat((fine, coarse), 1)))
        return out

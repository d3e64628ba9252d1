"""Models and batches of the benchmarks: each call returns a model, its input and its target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Case = tuple[nn.Module, Tensor, Tensor]


def mlp(width: int = 1024, depth: int = 6, batch: int = 64) -> Case:
    """Plain ReLU layers of equal width."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10)), torch.randn(batch, width), torch.randint(0, 10, (batch,))


class Residual(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut (He et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm1(self.conv1(x)))
        out: Tensor = self.relu(x + self.norm2(self.conv2(y)))
        return out


def resnet(channels: int = 32, blocks: int = 9, batch: int = 16) -> Case:
    """A residual net on 32x32 images."""
    stem = (nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))
    model = nn.Sequential(*stem, *(Residual(channels) for _ in range(blocks)), *head)
    return model, torch.randn(batch, 3, 32, 32), torch.randint(0, 10, (batch,))


class Block(nn.Module):
    """A pre-norm transformer block with causal attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.gelu = nn.GELU()
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.projection(mixed.transpose(1, 2).reshape(batch, length, width))
        out: Tensor = x + self.contract(self.gelu(self.expand(self.norm2(x))))
        return out


class GPT(nn.Module):
    """A small GPT-2: token and position embeddings, pre-norm blocks, a linear head."""

    def __init__(self, depth: int, width: int, vocabulary: int, length: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.zeros(length, width))
        self.blocks = nn.Sequential(*(Block(width, 4) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.blocks(self.tokens(tokens) + self.positions)))
        return out.flatten(0, 1)


def gpt(depth: int = 6, width: int = 256, batch: int = 4, length: int = 128, vocabulary: int = 512) -> Case:
    """Next-token prediction on random tokens."""
    tokens = torch.randint(0, vocabulary, (batch, length + 1))
    return GPT(depth, width, vocabulary, length), tokens[:, :-1], tokens[:, 1:].reshape(-1)


class Tagger(nn.Module):
    """Two LSTM layers over a sequence of features and a linear head at its end."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, width, num_layers=2, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.lstm(x)[0][:, -1])
        return out


def lstm(width: int = 128, batch: int = 32, length: int = 50) -> Case:
    """Classes of sequences."""
    return Tagger(32, width), torch.randn(batch, length, 32), torch.randint(0, 10, (batch,))


def compiled(model: nn.Module, x: Tensor, y: Tensor) -> Case:
    """The same in kernels that torch.compile makes, with a C++ compiler at hand."""
    made: Any = torch.compile(model)
    return made, x, y


MODELS: dict[str, Callable[[], Case]] = {
    "mlp 3x64": lambda: mlp(64, 3),
    "mlp 6x1024": mlp,
    "resnet": resnet,
    "gpt 6x256": gpt,
    "lstm": lstm,
    "mlp 200x64": lambda: mlp(64, 200),
    "gpt compiled": lambda: compiled(*gpt()),
}

"""Architectures of the clinic, small, as people write them, and initialised well."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Callable[[], nn.Module]
RecurrentKind = type[nn.RNN] | type[nn.GRU] | type[nn.LSTM]


def mlp(*widths: int, activation: Activation = nn.ReLU, norm: bool = False, dropout: float = 0.0) -> nn.Sequential:
    """Linear layers with an activation between them, none at the end."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths[:-1]):
        layers.append(nn.Linear(before, after, bias=not norm))
        layers += [nn.BatchNorm1d(after)] if norm else []
        layers.append(activation())
        layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def initialise(model: nn.Module, scheme: Callable[[Tensor], object]) -> nn.Module:
    """Fill every weight matrix and kernel with ``scheme``; biases of linear and convolutional layers are zeroed."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv1d)):
            scheme(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


# Images of 8x8.


def cnn(
    channels: Sequence[int] = (16, 32),
    classes: int = 10,
    activation: Activation = nn.ReLU,
    norm: bool = True,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Convolutions with BatchNorm and pooling after each of the first two, then a linear layer."""
    layers: list[nn.Module] = []
    for place, (before, after) in enumerate(itertools.pairwise((1, *channels))):
        layers.append(nn.Conv2d(before, after, 3, padding=1, bias=not norm))
        layers += [nn.BatchNorm2d(after)] if norm else []
        layers.append(activation())
        layers += [nn.MaxPool2d(2)] if place < 2 else []
    side = 8 >> min(len(channels), 2)
    layers += [nn.Flatten(), *([nn.Dropout(dropout)] if dropout else [])]
    return nn.Sequential(*layers, nn.Linear(channels[-1] * side * side, classes))


class Residual(nn.Module):
    """Two convolutions with BatchNorm and a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(x + y)


def resnet(blocks: int = 2, channels: int = 16, classes: int = 10) -> nn.Sequential:
    stem = (nn.Conv2d(1, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(2))
    head = (nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, classes))
    return nn.Sequential(*stem, *(Residual(channels) for _ in range(blocks)), *head)


# Sequences.


class Recurrent(nn.Module):
    """Reads a sequence of vectors [n, length, inputs], or of tokens where ``tokens``; answers from the last state."""

    def __init__(
        self, kind: RecurrentKind, inputs: int, hidden: int, outputs: int, tokens: bool = False, layers: int = 1
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(inputs, hidden) if tokens else nn.Identity()
        self.recurrent: Any = kind(hidden if tokens else inputs, hidden, num_layers=layers, batch_first=True)
        self.head: nn.Module = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.recurrent(self.embed(x))
        out: Tensor = self.head(states[:, -1])
        return out


class RecurrentLanguageModel(nn.Module):
    """Predicts the next token [n, length, vocabulary] after each of [n, length]."""

    def __init__(self, kind: RecurrentKind, vocabulary: int, hidden: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, hidden)
        self.recurrent = kind(hidden, hidden, batch_first=True)
        self.head = nn.Linear(hidden, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(self.recurrent(self.embed(tokens))[0])
        return out


# Transformers.


class Encoder(nn.Module):
    """torch's own pre-norm encoder over vectors [n, length, inputs] or tokens; classifies from the mean."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        length: int,
        width: int = 32,
        depth: int = 2,
        tokens: bool = False,
        dropout: float = 0.1,
        norm_first: bool = True,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(inputs, width) if tokens else nn.Linear(inputs, width)
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        block = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(block, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.encoder(self.embed(x) + self.positions)).mean(1))
        return out


class Attention(nn.Module):
    """Causal self-attention written by hand."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = 1 / math.sqrt(width // heads)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        query, key, value = (
            layer(x).view(n, length, self.heads, -1).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        scores = self.scale * query @ key.transpose(2, 3)
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(future, float("-inf")).softmax(3)
        out: Tensor = self.out((weights @ value).transpose(1, 2).reshape(n, length, width))
        return out


class Block(nn.Module):
    """Pre-norm attention and feed-forward network."""

    def __init__(self, width: int, heads: int, feed_forward: nn.Module | None = None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.feed_forward = feed_forward or mlp(width, 4 * width, width, activation=nn.GELU)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.feed_forward(self.norm2(x))
        return out


class Decoder(nn.Module):
    """A small GPT: predicts the next token [n, length, vocabulary] after each of [n, length]."""

    def __init__(self, vocabulary: int, length: int, width: int = 32, depth: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for table in (self.embed, self.positions):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.positions.weight[: tokens.shape[1]]
        out: Tensor = self.head(self.norm(self.blocks(x)))
        return out


# Others.


class VAE(nn.Module):
    """Gives the reconstruction, and mean and log-variance of the code."""

    def __init__(self, inputs: int = 64, hidden: int = 64, code: int = 8) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU())
        self.mean = nn.Linear(hidden, code)
        self.log_variance = nn.Linear(hidden, code)
        self.decoder = mlp(code, hidden, inputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.encoder(x)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        code = mean + torch.randn_like(mean) * (0.5 * log_variance).exp() if self.training else mean
        return self.decoder(code), mean, log_variance


class GraphConvolution(nn.Module):
    """Mixes the neighbours' features, then a linear layer."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        out: Tensor = self.linear(adjacency @ x)
        return out


class GraphNetwork(nn.Module):
    """Classifies the nodes of one graph."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(GraphConvolution(before, after) for before, after in itertools.pairwise(widths))

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x, adjacency))
        out: Tensor = self.layers[-1](x, adjacency)
        return out


class MixtureOfExperts(nn.Module):
    """A gate sends each row to its best expert; ``shares`` and ``balance`` tell of the last forward pass.

    ``balance`` is the auxiliary loss of Switch Transformers: 1 when all experts get the same, up to their number.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, experts: int = 6) -> None:
        super().__init__()
        self.gate = nn.Linear(inputs, experts)
        self.experts = nn.ModuleList(mlp(inputs, hidden, outputs) for _ in range(experts))
        self.outputs = outputs
        self.shares = torch.zeros(experts)
        self.balance = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        chances = self.gate(x).softmax(1)
        best, chosen = chances.max(1)
        out = x.new_zeros(len(x), self.outputs)
        for number, expert in enumerate(self.experts):
            rows = (chosen == number).nonzero().squeeze(1)
            if len(rows):
                out = out.index_add(0, rows, best[rows].unsqueeze(1) * expert(x[rows]))
        self.shares = F.one_hot(chosen, len(self.experts)).float().mean(0)
        self.balance = len(self.experts) * (self.shares * chances.mean(0)).sum()
        return out

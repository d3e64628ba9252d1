"""Data of the clinic: scikit-learn's bundled sets and synthetic tasks, standardised; the split follows torch's seed."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from sklearn import datasets
from torch import Tensor


class Data(NamedTuple):
    """Inputs and targets to train on, then those to validate on."""

    x: Tensor
    y: Tensor
    x_val: Tensor
    y_val: Tensor


def batches(x: Tensor, y: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Mini-batches for ever; every epoch in a new random order, the incomplete last one dropped."""
    size = min(size, len(x))
    while True:
        order = torch.randperm(len(x))
        for start in range(0, len(x) - size + 1, size):
            chosen = order[start : start + size]
            yield x[chosen], y[chosen]


def split(x: Tensor, y: Tensor, train: float = 0.8) -> Data:
    order = torch.randperm(len(x))
    cut = int(train * len(x))
    return Data(x[order[:cut]], y[order[:cut]], x[order[cut:]], y[order[cut:]])


def standardised(data: Data) -> Data:
    """Each feature with mean 0 and variance 1 over the training part."""
    mean, std = data.x.mean(0), data.x.std(0).clamp_min(1e-6)
    return Data((data.x - mean) / std, data.y, (data.x_val - mean) / std, data.y_val)


# Bundled sets.


@functools.cache
def _load(name: str) -> tuple[Tensor, Tensor]:
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y)


def digits(*shape: int, raw: bool = False) -> Data:
    """8x8 images of digits, ``shape`` each: mean 0 and variance 1 over all pixels, or ``raw`` from 0 to 16."""
    x, y = _load("digits")
    return split((x if raw else (x - x.mean()) / x.std()).reshape(-1, *(shape or (64,))), y)


def table(name: str, raw: bool = False) -> Data:
    """Iris, wine or breast_cancer: features and class indices."""
    data = split(*_load(name))
    return data if raw else standardised(data)


def diabetes(raw: bool = False) -> Data:
    """Ten features; a target [n, 1] with mean 0 and variance 1, or ``raw`` from 25 to 346."""
    x, y = _load("diabetes")
    y = y.float().unsqueeze(1)
    return standardised(split(x, y if raw else (y - y.mean()) / y.std()))


@functools.cache
def _letters() -> tuple[str, Tensor]:
    names = ("iris", "wine", "breast_cancer", "diabetes", "digits", "linnerud")
    text = "\n".join(getattr(datasets, f"load_{name}")()["DESCR"] for name in names)
    text = " ".join("".join(letter if letter.isalpha() else " " for letter in text.lower()).split())
    alphabet = "".join(sorted(set(text)))
    return alphabet, torch.tensor([alphabet.index(letter) for letter in text])


def alphabet() -> str:
    """The characters of `text`; their indices are the tokens."""
    return _letters()[0]


def text(length: int = 32) -> Data:
    """Descriptions of data sets as characters: windows of ``length`` tokens [n, length] and the tokens after each."""
    tokens = _letters()[1]
    windows = tokens.unfold(0, length + 1, 4)
    cut = int(0.9 * len(windows))  # in the order of the text: no window of one part overlaps one of the other
    train, val = windows[: cut - length // 4], windows[cut:]
    return Data(train[:, :-1], train[:, 1:], val[:, :-1], val[:, 1:])


# Synthetic tables.


def _points(x: object, y: object) -> Data:
    return standardised(split(torch.tensor(x, dtype=torch.float32), torch.tensor(y)))


def _state() -> int:
    return int(torch.randint(2**31, ()))


def moons(samples: int = 800, noise: float = 0.15) -> Data:
    """Two interleaved half circles in the plane: two classes."""
    return _points(*datasets.make_moons(samples, noise=noise, random_state=_state()))


def circles(samples: int = 800, noise: float = 0.05) -> Data:
    """A circle in a circle: two classes."""
    return _points(*datasets.make_circles(samples, noise=noise, factor=0.4, random_state=_state()))


def spirals(samples: int = 900, arms: int = 3, noise: float = 0.1) -> Data:
    """Interleaved spirals in the plane, one class each."""
    arm, turn = torch.arange(samples) % arms, torch.rand(samples)
    angle = 2 * math.pi * (turn + arm / arms)
    x = (0.1 + turn).unsqueeze(1) * torch.stack((angle.cos(), angle.sin()), 1)
    return standardised(split(x + noise * 0.3 * torch.randn_like(x), arm))


def blobs(samples: int = 1000, classes: int = 5, features: int = 10, spread: float = 2.0) -> Data:
    """One Gaussian blob a class."""
    made = datasets.make_blobs(samples, features, centers=classes, cluster_std=spread, random_state=_state())
    return _points(*made[:2])


def imbalanced(samples: int = 2000, rare: float = 0.03, features: int = 12) -> Data:
    """Two classes, of which class 1 has a share of ``rare``."""
    made = datasets.make_classification(
        samples, features, n_informative=6, weights=[1 - rare], flip_y=0, class_sep=0.8, random_state=_state()
    )
    return _points(*made)


def multilabel(samples: int = 1200, features: int = 20, labels: int = 8) -> Data:
    """Targets [n, labels] of zeros and ones, several ones a sample."""
    x, y = datasets.make_multilabel_classification(samples, features, n_classes=labels, random_state=_state())
    return _points(x, y.astype("float32"))


def friedman(samples: int = 1000, noise: float = 0.5) -> Data:
    """A nonlinear regression with ten features; a target [n, 1] with mean 0 and variance 1."""
    x, y = datasets.make_friedman1(samples, noise=noise, random_state=_state())
    y = (y - y.mean()) / y.std()
    return _points(x, y.astype("float32")[:, None])


def ring(samples: int = 2000, modes: int = 8) -> Tensor:
    """Points [n, 2] in Gaussians around a circle of radius 1.4 (variance 1): what a GAN learns."""
    angle = 2 * math.pi * (torch.arange(samples) % modes) / modes
    return 1.4 * torch.stack((angle.cos(), angle.sin()), 1) + 0.08 * torch.randn(samples, 2)


# Sequences.


def adding(samples: int = 2000, length: int = 20) -> Data:
    """Numbers and marks [n, length, 2]; the target [n, 1] is the sum of the two marked numbers, variance 1."""
    numbers, marks = torch.rand(samples, length), torch.zeros(samples, length)
    half = length // 2
    first, second = torch.randint(half, (samples,)), half + torch.randint(length - half, (samples,))
    rows = torch.arange(samples)
    marks[rows, first] = marks[rows, second] = 1
    y = (numbers * marks).sum(1, keepdim=True)
    return split(torch.stack(((numbers - 0.5) * math.sqrt(12), marks), 2), (y - 1) * math.sqrt(6))


def recall(samples: int = 2000, length: int = 20, symbols: int = 6) -> Data:
    """Tokens [n, length] out of 2 * symbols; the target is the first one, the others are noise out of other symbols."""
    tokens = symbols + torch.randint(symbols, (samples, length))
    tokens[:, 0] = torch.randint(symbols, (samples,))
    return split(tokens, tokens[:, 0].clone())


def parity(samples: int = 2000, length: int = 6) -> Data:
    """Bits [n, length, 1] as -1 and 1; the target is whether the number of ones is odd."""
    bits = torch.randint(2, (samples, length))
    return split((2.0 * bits - 1).unsqueeze(2), bits.sum(1) % 2)


def copying(samples: int = 2000, length: int = 8, symbols: int = 8) -> Data:
    """Tokens [n, 2 * length]: a word, a marker (token ``symbols``), the word again; targets are the next tokens."""
    word = torch.randint(symbols, (samples, length))
    tokens = torch.cat((word, torch.full((samples, 1), symbols), word), 1)
    return split(tokens[:, :-1], tokens[:, 1:])


def waves(samples: int = 1500, length: int = 24, noise: float = 0.1) -> Data:
    """Pieces [n, length, 1] of sines of random frequency and phase, and the next value [n, 1]; variance 1."""
    frequency, phase = 0.2 + 0.6 * torch.rand(samples, 1), 2 * math.pi * torch.rand(samples, 1)
    series = math.sqrt(2) * torch.sin(frequency * torch.arange(length + 1) + phase)
    noisy = series[:, :-1] + noise * torch.randn(samples, length)
    return split(noisy.unsqueeze(2), series[:, -1:])


# Graphs.


class Graph(NamedTuple):
    """Nodes with features and classes, the normalised adjacency with self-loops [n, n], nodes to train on."""

    x: Tensor
    y: Tensor
    adjacency: Tensor
    train: Tensor


def communities(nodes: int = 300, classes: int = 4, features: int = 16) -> Graph:
    """Nodes of one class are linked more often, and their features have a mean in common under much noise."""
    y = torch.randint(classes, (nodes,))
    x = torch.randn(classes, features)[y] + 2.0 * torch.randn(nodes, features)
    chance = torch.where(y[:, None] == y[None, :], 0.08, 0.01)
    links = (torch.rand(nodes, nodes) < chance).triu(1)
    adjacency = (links | links.T | torch.eye(nodes, dtype=torch.bool)).float()
    scale = adjacency.sum(1).rsqrt()
    return Graph((x - x.mean(0)) / x.std(0), y, scale[:, None] * adjacency * scale, torch.rand(nodes) < 0.6)

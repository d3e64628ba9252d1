"""Tasks beyond classes of a table: masks of images, tags of padded sentences, ratings, small graphs."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.clinic.data import Data, split

PAD, IGNORED = 0, -100  # token and tag of the places after a sentence


def masks(samples: int = 400, side: int = 12, size: int = 5, noise: float = 0.6) -> Data:
    """Images [n, 1, side, side] of a bright rectangle in noise, up to ``size`` wide; the target is 1 inside it."""
    place = torch.arange(side)
    inside = torch.ones(samples, side, side, dtype=torch.bool)
    for dim in (1, 2):
        extent = torch.randint(max(1, size // 2), size + 1, (samples, 1))
        start = (torch.rand(samples, 1) * (side - extent + 1)).long()
        line = (place >= start) & (place < start + extent)
        inside &= line.unsqueeze(3 - dim)
    mask = inside.float().unsqueeze(1)
    images = mask + noise * torch.randn_like(mask)
    return split((images - images.mean()) / images.std(), mask)


def tagged(samples: int = 1200, length: int = 12, words: int = 24, tags: int = 4) -> Data:
    """Sentences [n, length] of 4 to ``length`` words and `PAD`; a word's tag depends on it and on the one before."""
    tokens = torch.randint(1, words, (samples, length))
    before = torch.cat((tokens.new_zeros(samples, 1), tokens[:, :-1]), 1)
    labels = (tokens + before) % tags
    after = torch.arange(length) >= torch.randint(4, length + 1, (samples, 1))
    return split(tokens.masked_fill(after, PAD), labels.masked_fill(after, IGNORED))


def ratings(samples: int = 2000, users: int = 30, items: int = 20, noise: float = 0.3) -> Data:
    """A user, an item and a month [n, 3] as indices; the rating [n, 1] is a product of hidden traits, variance 1."""
    ids = torch.stack([torch.randint(count, (samples,)) for count in (users, items, 12)], 1)
    likes, traits, season = torch.randn(users, 3), torch.randn(items, 3), torch.randn(12)
    rating = (likes[ids[:, 0]] * traits[ids[:, 1]]).sum(1) + season[ids[:, 2]]
    rating = rating + noise * rating.std() * torch.randn(samples)
    return split(ids, ((rating - rating.mean()) / rating.std()).unsqueeze(1))


def molecules(samples: int = 800, nodes: int = 8) -> Data:
    """Graphs [n, nodes, 3 + nodes], kinds of the nodes and adjacency side by side; the target [n, 1] sums over bonds.

    A bond's energy depends on the kinds of its ends; the target has mean 0 and variance 1.
    """
    kind = torch.randint(3, (samples, nodes))
    links = (torch.rand(samples, nodes, nodes) < 0.35).triu(1)
    adjacency = (links | links.transpose(1, 2)).float()
    energy = torch.tensor([[1.0, -1.0, 0.5], [-1.0, 2.0, 0.0], [0.5, 0.0, -2.0]])
    total = (adjacency * energy[kind[:, :, None], kind[:, None, :]]).sum((1, 2)) / 2
    features = torch.cat((torch.eye(3)[kind], adjacency), 2)
    return split(features, ((total - total.mean()) / total.std()).unsqueeze(1))


def overlap(logits: Tensor, mask: Tensor) -> float:
    """1 - Dice of the pixels above 0: 0 is the best."""
    found = (logits > 0).float()
    return float(1 - 2 * (found * mask).sum() / (found.sum() + mask.sum()).clamp_min(1))

"""Tables of vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adagrad, Adam, SparseAdam
from torch.utils.data import DataLoader, TensorDataset

from tests.clinic import data
from tests.clinic.case import Program, healthy
from tests.clinic.loops import mean_loss
from tests.clinic.turns import Loop, turns


class SkipGram(nn.Module):
    """word2vec: vectors of words and of their contexts, negative samples, gradients only for the words seen."""

    def __init__(self, words: int, width: int = 16) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width, sparse=True)
        self.contexts = nn.Embedding(words, width, sparse=True)
        nn.init.uniform_(self.words.weight, -0.5, 0.5)
        nn.init.uniform_(self.contexts.weight, -0.5, 0.5)

    def forward(self, word: Tensor, context: Tensor) -> Tensor:
        out: Tensor = (self.words(word) * self.contexts(context)).sum(-1)
        return out


@healthy(steps=500, bound=0.29)
def words_with_sparse_gradients() -> Program:
    topic = torch.randint(10, (20000,))
    word, context = (20 * topic + (20 * torch.rand(20000) ** 2).long() for _ in range(2))  # 10 topics of 20 words
    model = SkipGram(200)
    optimizer = SparseAdam(model.parameters(), lr=0.02)
    loader = data.batches(word[:18000], context[:18000], 256)

    def negative_sampling(words: Tensor, contexts: Tensor) -> Tensor:
        noise = torch.randint(200, contexts.shape)
        return -(F.logsigmoid(model(words, contexts)) + F.logsigmoid(-model(words, noise))).mean() / 2

    def step(i: int) -> None:
        words, contexts = next(loader)
        optimizer.zero_grad()
        loss = negative_sampling(words, contexts)
        loss.backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return negative_sampling(word[18000:], context[18000:]).item()

    return Program(model, optimizer, step, loss)


class Factors(nn.Module):
    """Matrix factorisation: a rating from a user's and a film's vector and biases."""

    def __init__(self, users: int, films: int, width: int = 8) -> None:
        super().__init__()
        self.users, self.films = nn.Embedding(users, width), nn.Embedding(films, width)
        self.user_bias, self.film_bias = nn.Embedding(users, 1), nn.Embedding(films, 1)
        for table in (self.users, self.films):
            nn.init.normal_(table.weight, std=0.2)
        for bias in (self.user_bias, self.film_bias):
            nn.init.zeros_(bias.weight)

    def forward(self, user: Tensor, film: Tensor) -> Tensor:
        biases = self.user_bias(user) + self.film_bias(film)
        out: Tensor = (self.users(user) * self.films(film)).sum(1) + biases.squeeze(1)
        return out


@healthy(steps=600, bound=0.22)
def ratings_by_factors() -> Program:
    tastes, traits = torch.randn(200, 3), torch.randn(100, 3)
    user, film = torch.randint(200, (12000,)), torch.randint(100, (12000,))
    rating = (tastes[user] * traits[film]).sum(1) + 0.3 * torch.randn(12000)
    rating = rating / rating.std()
    pairs, pairs_val = torch.stack((user, film), 1).split(10000)
    model = Factors(200, 100)
    optimizer = Adagrad(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(pairs, rating[:10000]), batch_size=200, shuffle=True)

    def train() -> Loop:
        for _ in range(12):
            for chosen, ratings in loader:
                optimizer.zero_grad()
                loss = F.mse_loss(model(chosen[:, 0], chosen[:, 1]), ratings)
                loss.backward()
                optimizer.step()
                yield
            with torch.no_grad():
                F.mse_loss(model(pairs_val[:, 0], pairs_val[:, 1]), rating[10000:])

    def loss() -> float:
        with torch.no_grad():
            return F.mse_loss(model(pairs_val[:, 0], pairs_val[:, 1]), rating[10000:]).item()

    return Program(model, optimizer, turns(train()), loss)


@healthy(steps=250, bound=0.3)
def bags_of_words() -> Program:
    topic = torch.randint(4, (2000,))
    rank = (60 * torch.rand(2000, 20) ** 3).long()  # frequent words come first
    own = torch.rand(2000, 20) < 0.3
    words = torch.where(own, 60 + 30 * topic[:, None] + rank % 30, rank)  # 60 words of all topics, 30 of each
    x, y, x_val, y_val = data.split(words, topic)
    model = nn.Sequential(nn.EmbeddingBag(180, 16, mode="mean"), nn.Linear(16, 4))
    optimizer = Adam(model.parameters(), lr=1e-2)
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)

    def train() -> Loop:
        for _ in range(10):
            for documents, topics in loader:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(documents), topics)
                loss.backward()
                optimizer.step()
                yield

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.cross_entropy))

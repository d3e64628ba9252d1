"""Learning what is alike: contrastive losses, pairs, embeddings, distillation."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, SparseAdam
from torch.utils.data import DataLoader, TensorDataset

from tests.clinic import data, models
from tests.clinic.case import Program, healthy
from tests.clinic.loops import mean_loss
from tests.clinic.turns import Loop, turns


def blurred(x: Tensor) -> Tensor:
    return x * (torch.rand_like(x) > 0.2) + 0.3 * torch.randn_like(x)


@healthy(steps=300, bound=3.3)
def info_nce() -> Program:
    x, _, x_val, _ = data.digits()
    model = nn.Sequential(models.mlp(64, 128, 64), nn.ReLU(), nn.Linear(64, 32))
    optimizer = Adam(model.parameters(), lr=1e-3)
    temperature = 0.2

    def info_nce_loss(one: Tensor, other: Tensor) -> Tensor:
        logits = F.normalize(one) @ F.normalize(other).T / temperature
        labels = torch.arange(len(one))
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2

    def step(i: int) -> None:
        images = x[torch.randperm(len(x))[:128]]
        optimizer.zero_grad()
        loss = info_nce_loss(model(blurred(images)), model(blurred(images)))
        loss.backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return info_nce_loss(model(blurred(x_val[:128])), model(blurred(x_val[:128]))).item()

    return Program(model, optimizer, step, loss)


@healthy(steps=250, bound=0.5)
def triplets() -> Program:
    digits = data.digits()
    model = models.mlp(64, 64, 16)
    criterion = nn.TripletMarginLoss(margin=1.0)
    optimizer = Adam(model.parameters(), lr=1e-3)
    by_class = [digits.x[digits.y == label] for label in range(10)]

    def drawn(label: Tensor) -> Tensor:
        return torch.stack([by_class[i][torch.randint(len(by_class[i]), ())] for i in label.tolist()])

    def step(i: int) -> None:
        label = torch.randint(10, (64,))
        other = (label + torch.randint(1, 10, (64,))) % 10
        anchor, positive, negative = model(drawn(label)), model(drawn(label)), model(drawn(other))
        loss = criterion(anchor, positive, negative)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        x, y = digits.x_val, digits.y_val
        with torch.no_grad():
            points = model(x)
        distance = torch.cdist(points, points)
        alike, unlike = distance[y[:, None] == y], distance[y[:, None] != y]
        return (alike.mean() / unlike.mean()).item()  # 1 when nothing is learned

    return Program(model, optimizer, step, loss)


class Siamese(nn.Module):
    """One network for both of a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = models.cnn((8, 16), classes=16)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return F.pairwise_distance(self.tower(one), self.tower(other))


@healthy(steps=250, bound=0.3)
def siamese_pairs() -> Program:
    x, y, x_val, y_val = data.digits(1, 8, 8)
    model = Siamese()
    optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9)

    def pairs(images: Tensor, labels: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        first = torch.randint(len(images), (size,))
        chances = torch.where(labels[first][:, None] == labels, 9.0, 1.0)  # as many alike as unlike
        second = torch.multinomial(chances, 1).squeeze(1)
        return images[first], images[second], (labels[first] == labels[second]).float()

    def contrastive(distance: Tensor, alike: Tensor) -> Tensor:
        return (alike * distance**2 + (1 - alike) * F.relu(2 - distance) ** 2).mean()

    def step(i: int) -> None:
        model.train()
        one, other, alike = pairs(x, y, 48)
        optimizer.zero_grad()
        contrastive(model(one, other), alike).backward()
        optimizer.step()

    def loss() -> float:
        model.eval()
        with torch.no_grad():
            one, other, alike = pairs(x_val, y_val, 500)
            return contrastive(model(one, other), alike).item()

    return Program(model, optimizer, step, loss)


@healthy(steps=300, bound=0.25)
def cosine_embedding_of_two_views() -> Program:
    x, _, x_val, _ = data.digits()
    left, right = models.mlp(32, 64, 16), models.mlp(32, 64, 16)  # the upper and the lower half of an image
    model = nn.ModuleList([left, right])
    criterion = nn.CosineEmbeddingLoss(margin=0.2)
    optimizer = AdamW(model.parameters(), lr=2e-3)

    def views_loss(images: Tensor) -> Tensor:
        half = len(images) // 2
        upper, lower = images.split(32, 1)
        lower = torch.cat((lower[:half], lower[half:].roll(1, 0)))  # those of the second half do not belong together
        alike = torch.cat((torch.ones(half), -torch.ones(len(images) - half)))
        loss: Tensor = criterion(left(upper), right(lower), alike)
        return loss

    def step(i: int) -> None:
        loss = views_loss(x[torch.randint(len(x), (128,))])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return views_loss(x_val).item()

    return Program(model, optimizer, step, loss)


class SelfTaught(nn.Module):
    """BYOL: an online network predicts what a slowly following copy of it makes of another view."""

    def __init__(self) -> None:
        super().__init__()
        self.online = models.mlp(64, 128, 32, norm=True)
        self.predictor = models.mlp(32, 64, 32, norm=True)
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return (self.half_loss(one, other) + self.half_loss(other, one)) / 2

    def half_loss(self, one: Tensor, other: Tensor) -> Tensor:
        with torch.no_grad():
            aim = self.target(other)
        return 2 - 2 * F.cosine_similarity(self.predictor(self.online(one)), aim).mean()

    @torch.no_grad()
    def follow(self, pace: float = 0.02) -> None:
        for slow, fast in zip(self.target.parameters(), self.online.parameters(), strict=True):
            slow.lerp_(fast, pace)


@healthy(steps=250, bound=0.25)
def own_slow_copy_as_target() -> Program:
    digits = data.digits()
    model = SelfTaught()
    optimizer = Adam([*model.online.parameters(), *model.predictor.parameters()], lr=1e-3)

    def train() -> Loop:
        loader = DataLoader(TensorDataset(digits.x), batch_size=128, shuffle=True, drop_last=True)
        while True:
            for (images,) in loader:
                model.train()
                loss = model(blurred(images), blurred(images))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                model.follow()
                yield

    def loss() -> float:
        model.eval()
        with torch.no_grad():
            return float(model(blurred(digits.x_val), blurred(digits.x_val)))

    return Program(model, optimizer, turns(train()), loss)


@healthy(steps=250, bound=0.3)
def student_of_a_teacher() -> Program:
    x, y, x_val, y_val = data.digits()
    teacher = models.mlp(64, 128, 10)
    teacher_optimizer = Adam(teacher.parameters(), lr=3e-3)
    for _ in range(60):
        teacher_optimizer.zero_grad()
        F.cross_entropy(teacher(x), y).backward()
        teacher_optimizer.step()
    teacher.eval().requires_grad_(False)
    student = models.mlp(64, 24, 10)
    optimizer = Adam(student.parameters(), lr=3e-3)
    loader = data.batches(x, y, 64)
    heat = 3.0

    def step(i: int) -> None:
        images, labels = next(loader)
        with torch.no_grad():
            soft = F.log_softmax(teacher(images) / heat, dim=1)
        logits = student(images)
        imitation = F.kl_div(F.log_softmax(logits / heat, 1), soft, reduction="batchmean", log_target=True) * heat**2
        loss = 0.7 * imitation + 0.3 * F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(student, optimizer, step, mean_loss(student, x_val, y_val, F.cross_entropy))


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


@healthy(steps=500, bound=0.5)
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


@healthy(steps=600, bound=0.5)
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


@healthy(steps=250, bound=0.45)
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


class Prototypes(nn.Module):
    """Embeds images; classes are the means of a few examples."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = models.mlp(64, 64, 32)

    def forward(self, support: Tensor, query: Tensor) -> Tensor:
        means = self.embed(support.flatten(0, 1)).view(*support.shape[:2], -1).mean(1)
        return -torch.cdist(self.embed(query.flatten(0, 1)), means).pow(2) / 8


@healthy(steps=200, bound=0.35)
def prototypes_of_few_examples() -> Program:
    x, y, x_val, y_val = data.digits()
    model = Prototypes()
    optimizer = Adam(model.parameters(), lr=1e-3)

    def episode(images: Tensor, labels: Tensor, ways: int = 5) -> Tensor:
        classes = torch.randperm(10)[:ways].tolist()
        drawn = torch.stack([images[labels == c][torch.randperm(int((labels == c).sum()))[:10]] for c in classes])
        logits = model(drawn[:, :5], drawn[:, 5:])
        return F.cross_entropy(logits, torch.arange(ways).repeat_interleave(5))

    def step(i: int) -> None:
        optimizer.zero_grad()
        loss = episode(x, y)
        loss.backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return sum(episode(x_val, y_val).item() for _ in range(40)) / 40

    return Program(model, optimizer, step, loss)

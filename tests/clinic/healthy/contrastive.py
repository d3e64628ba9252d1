"""Learning what is alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW

from tests.clinic import data, models
from tests.clinic.case import Program, healthy


def blurred(x: Tensor) -> Tensor:
    return x * (torch.rand_like(x) > 0.2) + 0.3 * torch.randn_like(x)


@healthy(steps=300, bound=2.4)
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


@healthy(steps=250, bound=0.46)
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


@healthy(steps=250, bound=0.5)
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


@healthy(steps=300, bound=0.2)
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


class Prototypes(nn.Module):
    """Embeds images; classes are the means of a few examples."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = models.mlp(64, 64, 32)

    def forward(self, support: Tensor, query: Tensor) -> Tensor:
        means = self.embed(support.flatten(0, 1)).view(*support.shape[:2], -1).mean(1)
        return -torch.cdist(self.embed(query.flatten(0, 1)), means).pow(2) / 8


@healthy(steps=200, bound=0.43)
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

"""Stars, clicks, grades and times to an event: embeddings and the losses of ranking, order and survival."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adagrad, Adam, AdamW, RMSprop

from tests.clinic.case import Program, sick
from tests.clinic.data import batches, diabetes, split

USERS, FILMS = 150, 100


def _tastes() -> Tensor:
    """How much each user likes each film [users, films], mean 0 and variance 1."""
    liking = torch.randn(USERS, 3) @ torch.randn(3, FILMS) + 1.5 * torch.randn(FILMS)
    return (liking - liking.mean()) / liking.std()


def _stars(samples: int = 4000) -> tuple[Tensor, Tensor, Tensor]:
    user, film = torch.randint(USERS, (samples,)), torch.randint(FILMS, (samples,))
    return user, film, (3 + 1.2 * _tastes()[user, film] + 0.3 * torch.randn(samples)).round().clamp(1, 5)


class _Factors(nn.Module):
    def __init__(self, rank: int, std: float, middle: float = 0.0) -> None:
        super().__init__()
        self.users, self.films = nn.Embedding(USERS, rank), nn.Embedding(FILMS, rank)
        self.user_bias, self.film_bias = nn.Embedding(USERS, 1), nn.Embedding(FILMS, 1)
        self.middle = middle
        for table in (self.users, self.films):
            if std != 1:
                nn.init.normal_(table.weight, std=std)
        nn.init.zeros_(self.user_bias.weight)
        nn.init.zeros_(self.film_bias.weight)

    def forward(self, user: Tensor, film: Tensor) -> Tensor:
        likeness = (self.users(user) * self.films(film)).sum(1)
        out: Tensor = self.middle + likeness + (self.user_bias(user) + self.film_bias(film)).squeeze(1)
        return out


@sick(
    "poor-initialization",
    "unexpected-initial-loss",
    steps=200,
    by=10,
    bound=4.0,
)
def factors_of_unit_variance(fault: bool) -> Program:
    """``nn.Embedding`` draws from N(0, 1): a product of 64 of them is off by eight stars."""
    user, film, stars = _stars()
    model = _Factors(64, std=1.0 if fault else 0.05, middle=3.0)
    optimizer = Adam(model.parameters(), lr=5e-3)

    def step(i: int) -> None:
        chosen = torch.randint(len(user), (128,))
        loss = F.mse_loss(model(user[chosen], film[chosen]), stars[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return float(F.mse_loss(model(user, film), stars))

    return Program(model, optimizer, step, loss)


@sick("wrong-output-activation", "unnormalized-target", steps=250, by=80, bound=1.5)
def stars_through_a_sigmoid(fault: bool) -> Program:
    """One to five stars, and a last layer that never says more than one."""

    class Rater(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.films = nn.Embedding(USERS, 16), nn.Embedding(FILMS, 16)
            self.layers = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1), nn.Sigmoid())

        def forward(self, user: Tensor, film: Tensor) -> Tensor:
            score = self.layers(torch.cat((self.users(user), self.films(film)), 1)).squeeze(1)
            out: Tensor = score if fault else 0.5 + 5 * score
            return out

    user, film, stars = _stars()
    model = Rater()
    optimizer = RMSprop(model.parameters(), lr=3e-3)
    criterion = nn.MSELoss()

    def step(i: int) -> None:
        chosen = torch.randint(len(user), (128,))
        optimizer.zero_grad()
        loss = criterion(model(user[chosen], film[chosen]), stars[chosen])
        loss.backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return float(criterion(model(user, film), stars))

    return Program(model, optimizer, step, loss)


@sick("class-imbalance", "class-collapse", steps=250, by=100, bound=1.0)
def clicks_without_any_that_were_not_made(fault: bool) -> Program:
    """Implicit feedback holds what was clicked; without drawing what was not, every target is 1."""
    liking = _tastes()
    clicked = (liking > 1).nonzero()
    model = _Factors(8, std=0.1)
    optimizer = Adagrad(model.parameters(), lr=0.1)
    criterion = nn.BCEWithLogitsLoss()

    def step(i: int) -> None:
        user, film = clicked[torch.randint(len(clicked), (128,))].T
        target = torch.ones(len(user))
        if not fault:
            user = torch.cat((user, user))
            film = torch.cat((film, torch.randint(FILMS, (128,))))
            target = torch.cat((target, torch.zeros(128)))
        optimizer.zero_grad()
        criterion(model(user, film), target).backward()
        optimizer.step()

    def loss() -> float:
        """Of all pairs, clicked or not."""
        with torch.no_grad():
            score = model(*torch.cartesian_prod(torch.arange(USERS), torch.arange(FILMS)).T).view(USERS, FILMS)
            return float(criterion(score, (liking > 1).float()))

    return Program(model, optimizer, step, loss)


@sick("redundant-softmax", steps=250, by=20, bound=0.45)
def thresholds_through_two_sigmoids(fault: bool) -> Program:
    """Grades as answers to "more than k?": the model's sigmoid, and that of the loss."""
    x, y, *_ = diabetes()
    grade = torch.bucketize(y.squeeze(1), torch.tensor([-0.9, -0.4, 0.2, 0.9]))
    exceeds = (grade.unsqueeze(1) > torch.arange(4)).float()

    class Grades(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.score = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
            self.thresholds = nn.Parameter(torch.linspace(1, -1, 4))

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.score(x) + self.thresholds
            return torch.sigmoid(logits) if fault else logits

    model = Grades()
    optimizer = AdamW(model.parameters(), lr=5e-3)
    criterion = nn.BCEWithLogitsLoss()
    loader = batches(x, exceeds, 32)

    def step(i: int) -> None:
        rows, targets = next(loader)
        optimizer.zero_grad()
        criterion(model(rows), targets).backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return float(criterion(model(x), exceeds))

    return Program(model, optimizer, step, loss)


@sick("non-finite", "unnormalized-input", steps=150, by=5, bound=1.0)
def hazards_of_raw_measurements(fault: bool) -> Program:
    """Rate of the event is the exponential of the output; with incomes among the features it is infinite."""
    plain = torch.randn(800, 4)
    time = torch.empty(800).exponential_() / (0.8 * plain[:, 0] - 0.5 * plain[:, 1]).exp()
    end = torch.empty(800).exponential_(0.5)
    seen, event = torch.minimum(time, end), (time < end).float()
    raw = plain * torch.tensor([12.0, 15000.0, 8.0, 1.0]) + torch.tensor([50.0, 42000.0, 130.0, 2.0])
    task = split(raw if fault else plain, torch.stack((seen, event), 1))
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
    optimizer = Adam(model.parameters(), lr=5e-3)
    loader = batches(task.x, task.y, 32)

    def negative_log_likelihood(log_rate: Tensor, outcome: Tensor) -> Tensor:
        seen, event = outcome.T
        surprise: Tensor = log_rate.exp() * seen - event * log_rate
        return surprise.mean()

    def step(i: int) -> None:
        rows, outcome = next(loader)
        loss = negative_log_likelihood(model(rows).squeeze(1), outcome)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return float(negative_log_likelihood(model(task.x).squeeze(1), task.y))

    return Program(model, optimizer, step, loss)

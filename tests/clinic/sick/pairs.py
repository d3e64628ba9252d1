"""Networks that learn from pairs, from a teacher, or against another domain."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, RMSprop

from tests.clinic import data, models
from tests.clinic.case import Program, sick
from tests.clinic.loops import errors, mean_loss


def _view(images: Tensor) -> Tensor:
    return images * (torch.rand_like(images) > 0.2) + 0.2 * torch.randn_like(images)


def _shared(code: Tensor) -> float:
    """Share of the code that all inputs have in common: 1 where they have become one."""
    return float(1 - code.var(0).sum() / code.square().sum(1).mean())


def _other_neighbours(encoder: nn.Module, task: data.Data) -> float:
    """Share of images whose nearest neighbour in the code is another digit."""
    encoder.eval()
    with torch.no_grad():
        code = F.normalize(encoder(task.x[:600]), dim=1)
        near = (code @ code.T - 10 * torch.eye(600)).argmax(1)
        return float((task.y[near] != task.y[:600]).float().mean())


@sick(
    "representation-collapse",
    steps=200,
    by=100,
    bound=0.8,
    miss="missed when it was first measured; why is not known yet",
)
def projector_of_the_teacher_learns_too(fault: bool) -> Program:
    """Features are matched after a linear layer each; with both trained, nothing is the easiest thing to match."""
    task = data.digits()
    teacher = models.mlp(64, 96, 32)
    teacher.requires_grad_(False)

    class Student(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = models.mlp(64, 32, 16, activation=nn.GELU)
            self.own = nn.Linear(16, 24)
            self.other = nn.Linear(32, 24).requires_grad_(fault)

        def forward(self, images: Tensor) -> Tensor:
            return F.mse_loss(self.own(self.body(images)), self.other(teacher(images)))

    model = Student()
    optimizer = Adam([p for p in model.parameters() if p.requires_grad], lr=5e-3, weight_decay=1e-3)

    def step(i: int) -> None:
        images = task.x[torch.randint(len(task.x), (64,))]
        optimizer.zero_grad()
        model(images).backward()
        optimizer.step()

    with torch.no_grad():
        variance = model.other(teacher(task.x)).var(0).sum()

    def loss() -> float:
        """1 minus the variance of the student's answers, that of the teacher's first projection being 1."""
        with torch.no_grad():
            return float(1 - model.own(model.body(task.x)).var(0).sum() / variance)

    return Program(model, optimizer, step, loss)


@sick("weight-growth", "diverging-loss", "exploding-gradient", steps=200, by=100, bound=30.0)
def negatives_pushed_away_for_ever(fault: bool) -> Program:
    """Distance of the alike minus distance of the others, without a margin: the loss has no bound below."""
    encoder = models.mlp(64, 64, 16)
    task = data.digits()
    optimizer = Adam(encoder.parameters(), lr=3e-3)

    def step(i: int) -> None:
        left, right = torch.randint(len(task.x), (2, 128))
        distance = (encoder(task.x[left]) - encoder(task.x[right])).square().sum(1)
        alike = task.y[left] == task.y[right]
        apart = -distance if fault else (2 - (distance + 1e-6).sqrt()).clamp_min(0).square()
        optimizer.zero_grad()
        torch.where(alike, distance, apart).mean().backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return float(encoder(task.x).norm(dim=1).mean())

    return Program(encoder, optimizer, step, loss)


def _taught(task: data.Data) -> nn.Module:
    teacher = models.mlp(64, 128, 10)
    optimizer = Adam(teacher.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(teacher(task.x), task.y).backward()
        optimizer.step()
    return teacher.eval().requires_grad_(False)


@sick(
    "loss-mismatch",
    "redundant-softmax",
    steps=200,
    by=50,
    bound=1.1,
)
def divergence_of_probabilities(fault: bool) -> Program:
    """kl_div wants logarithms as its first argument; given probabilities it rewards the largest of them."""
    task = data.digits()
    teacher = _taught(task)
    student = models.mlp(64, 24, 10, activation=nn.Tanh)
    optimizer = SGD(student.parameters(), lr=0.05)
    loader = data.batches(task.x, task.y, 64)

    def step(i: int) -> None:
        images, _ = next(loader)
        answer, aim = student(images), teacher(images).softmax(1)
        chances = F.softmax(answer, 1) if fault else F.log_softmax(answer, 1)
        loss = F.kl_div(chances, aim, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(student, optimizer, step, mean_loss(student, task.x, task.y, F.cross_entropy))


@sick("non-finite", steps=100, by=5, bound=0.3)
def logarithm_of_a_teachers_zero(fault: bool) -> Program:
    """Divergence by hand, p log(p / q): where the teacher rules a class out, 0 times minus infinity."""
    task = data.digits()
    student = models.mlp(64, 32, 10)
    optimizer = RMSprop(student.parameters(), lr=2e-3)
    loader = data.batches(task.x, task.y, 64)

    def step(i: int) -> None:
        images, labels = next(loader)
        aim = F.one_hot(labels, 10).float()  # a teacher that is sure
        aim = aim if fault else aim.clamp_min(1e-8)
        chances = F.softmax(student(images), dim=1)
        loss = (aim * (aim / chances).log()).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(student, optimizer, step, mean_loss(student, task.x, task.y, F.cross_entropy))


@sick(
    "unexpected-initial-loss",
    "logit-growth",
    "learning-rate-too-large",
    "exploding-gradient",
    steps=150,
    by=5,
    bound=2.0,
)
def temperature_of_a_thousandth(fault: bool) -> Program:
    """Similarities of two views over a temperature that lost a digit: 0.001 for 0.1."""
    encoder = models.mlp(64, 64, 32)
    task = data.digits()
    optimizer = SGD(encoder.parameters(), lr=0.1)
    temperature = 0.001 if fault else 0.1

    def contrast(images: Tensor, temperature: float) -> Tensor:
        left, right = F.normalize(encoder(_view(images)), dim=1), F.normalize(encoder(_view(images)), dim=1)
        return F.cross_entropy(left @ right.T / temperature, torch.arange(len(images)))

    def step(i: int) -> None:
        optimizer.zero_grad()
        contrast(task.x[torch.randint(len(task.x), (64,))], temperature).backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return float(contrast(task.x_val[:64], 0.1))

    return Program(encoder, optimizer, step, loss)


@sick(
    "logit-growth",
    "weight-growth",
    "learning-rate-too-large",
    "overfitting",
    steps=250,
    by=125,
    bound=40.0,
    miss="a scale that grows from 10 to 78 is what CLIP's does before its clip at 100 holds it",
)
def learned_temperature_without_a_limit(fault: bool) -> Program:
    """CLIP learns the logarithm of its scale and clips it at 100; here with a rate of its own, and no clip."""

    class Matcher(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.upper, self.lower = models.mlp(32, 64, 24), models.mlp(32, 64, 24)
            self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

        def forward(self, images: Tensor) -> Tensor:
            upper, lower = (
                F.normalize(self.upper(images[:, :32]), dim=1),
                F.normalize(self.lower(images[:, 32:]), dim=1),
            )
            return self.log_scale.exp() * upper @ lower.T

    model = Matcher()
    task = data.digits()
    rest = [p for name, p in model.named_parameters() if name != "log_scale"]
    optimizer = Adam([{"params": rest, "lr": 1e-3}, {"params": [model.log_scale], "lr": 5e-2 if fault else 1e-3}])

    def step(i: int) -> None:
        logits = model(task.x[:128][torch.randperm(128)[:32]])
        answer = torch.arange(32)
        loss = (F.cross_entropy(logits, answer) + F.cross_entropy(logits.T, answer)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not fault:
            with torch.no_grad():
                model.log_scale.clamp_(max=math.log(100.0))

    return Program(model, optimizer, step, lambda: model.log_scale.exp().item())


@sick("diverging-loss", "weight-growth", "exploding-gradient", "logit-growth", steps=250, by=125, bound=0.2)
def domain_loss_subtracted_from_everything(fault: bool) -> Program:
    """An adversarial branch without gradient reversal: its classifier too is trained to be as wrong as it can."""

    class Reversed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.view_as(x)

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:
            return -0.1 * gradient

    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(64, 48), nn.ReLU())
            self.digit, self.domain = nn.Linear(48, 10), models.mlp(48, 32, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            code = self.body(x)
            return self.digit(code), self.domain(code if fault else Reversed.apply(code))

    model = Adapted()
    task = data.digits()
    loader = data.batches(task.x, task.y, 32)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)

    def step(i: int) -> None:
        images, labels = next(loader)
        other = images.roll(1, 0) + 0.7
        digit, first = model(images)
        domain = F.cross_entropy(torch.cat((first, model(other)[1])), torch.arange(64) // 32)
        loss = F.cross_entropy(digit, labels) + (-0.5 if fault else 1.0) * domain
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return float((model(task.x)[0].argmax(1) != task.y).float().mean())

    return Program(model, optimizer, step, loss)


class _LowRank(nn.Module):
    """A frozen linear layer and a trainable product of two small matrices."""

    def __init__(self, base: nn.Linear, zeros: bool, rank: int = 4) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.zeros(rank, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        if not zeros:
            nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + 2 * F.linear(F.linear(x, self.down), self.up)
        return out


@sick(
    "symmetric-initialization",
    "no-gradient",
    "vanishing-gradient",
    "weights-not-updated",
    steps=150,
    by=50,
    bound=0.35,
)
def both_factors_of_an_adapter_zero(fault: bool) -> Program:
    """One factor of a low-rank adapter is to be zero: with both, each one's gradient is zero for ever."""
    task = data.digits()
    model = _taught(task)
    x = task.x.reshape(-1, 8, 8).flip(2).reshape(-1, 64)  # mirrored
    for place in (0, 2):
        model[place] = _LowRank(model[place], zeros=fault)  # type: ignore[index, operator]
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    loader = data.batches(x, task.y, 32)

    def step(i: int) -> None:
        images, labels = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return Program(model, optimizer, step, errors(model, x, task.y))


@sick(
    "representation-collapse",
    steps=250,
    by=125,
    bound=0.75,
)
def target_without_stop_of_the_gradient(fault: bool) -> Program:
    """Two views, one network, no predictor, and a gradient into both: the answer that all have in common wins."""
    encoder = models.mlp(64, 64, 32)
    predictor = models.mlp(32, 32, 32)
    both = nn.ModuleDict({"encoder": encoder, "predictor": predictor})
    target = copy.deepcopy(encoder).requires_grad_(False)
    task = data.digits()
    optimizer = Adam(both.parameters(), lr=2e-3)

    def step(i: int) -> None:
        images = task.x[torch.randint(len(task.x), (128,))]
        if fault:
            loss = 1 - F.cosine_similarity(encoder(_view(images)), encoder(_view(images))).mean()
        else:
            with torch.no_grad():
                aim = target(_view(images))
            loss = 1 - F.cosine_similarity(predictor(encoder(_view(images))), aim - aim.mean(0)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not fault:
            with torch.no_grad():
                for slow, fast in zip(target.parameters(), encoder.parameters(), strict=True):
                    slow.lerp_(fast, 0.02)

    def loss() -> float:
        with torch.no_grad():
            return _shared(F.normalize(encoder(task.x), dim=1))

    return Program(both, optimizer, step, loss)


@sick("learning-rate-too-large", "representation-collapse", "dead-units", steps=150, by=75, bound=0.3)
def triplets_at_a_rate_for_classifiers(fault: bool) -> Program:
    encoder = nn.Sequential(models.cnn((8, 16), norm=False)[:-1], nn.Linear(64, 16))
    task = data.digits(1, 8, 8)
    optimizer = SGD(encoder.parameters(), lr=1.0 if fault else 0.05, momentum=0.9)
    criterion = nn.TripletMarginLoss(margin=0.5)
    places = [(task.y == digit).nonzero().squeeze(1) for digit in range(10)]

    def step(i: int) -> None:
        anchor = torch.randint(len(task.x), (48,))
        alike = torch.stack([places[digit][torch.randint(len(places[digit]), ())] for digit in task.y[anchor].tolist()])
        other = torch.randint(len(task.x), (48,))
        other = torch.where(task.y[other] == task.y[anchor], other.roll(1), other)
        optimizer.zero_grad()
        criterion(*encoder(task.x[torch.cat((anchor, alike, other))]).chunk(3)).backward()
        optimizer.step()

    return Program(encoder, optimizer, step, lambda: _other_neighbours(encoder, task))

"""Networks that build on others: backbones, pairs of texts and images, codebooks, copies of the data."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, AdamW

from tests.clinic.case import Program, sick
from tests.clinic.data import batches, digits
from tests.clinic.loops import errors, mean_loss


@sick("weights-not-updated", steps=220, by=130, bound=0.12, layers=("backbone.0", "backbone.2"))
def unfrozen_but_not_in_the_optimizer(fault: bool) -> Program:
    """The optimizer was given what could be trained when it was made; the backbone is unfrozen later."""
    x, y, *_ = digits()

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 12), nn.ReLU())
            self.head = nn.Linear(12, 10)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.backbone(x))
            return out

    model = Classifier()
    small = y < 2  # the backbone knows zeros and ones
    before = Adam(model.parameters(), lr=3e-3)
    for _ in range(30):
        before.zero_grad()
        F.cross_entropy(model(x[small]), y[small]).backward()
        before.step()
    model.zero_grad()
    model.head = nn.Linear(12, 10)
    for p in model.backbone.parameters():
        p.requires_grad = False
    optimizer = Adam(filter(lambda p: p.requires_grad, model.parameters()), lr=5e-3)
    loader = batches(x, y, 64)

    def step(i: int) -> None:
        if i == 60:
            for p in model.backbone.parameters():
                p.requires_grad = True
            if not fault:
                optimizer.add_param_group({"params": list(model.backbone.parameters()), "lr": 2e-3})
        images, labels = next(loader)
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return Program(model, optimizer, step, errors(model, x, y))


@sick("small-batch-batchnorm", steps=250, by=60, bound=0.3)
def twos_accumulated_through_batchnorm(fault: bool) -> Program:
    """Memory is short, so sixteen images come in twos; the gradient adds up, the statistics of the norms do not."""
    x, y, *_ = digits()
    model = nn.Sequential(
        nn.Linear(64, 64),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Linear(64, 64),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    optimizer = AdamW(model.parameters(), lr=2e-3)
    size = 2 if fault else 16
    loader = batches(x, y, 16)
    criterion = nn.CrossEntropyLoss()

    def step(i: int) -> None:
        model.train()
        images, labels = next(loader)
        optimizer.zero_grad()
        for part, answer in zip(images.split(size), labels.split(size), strict=True):
            (criterion(model(part), answer) * size / 16).backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x, y, F.cross_entropy))


@sick("representation-collapse", "loss-mismatch", steps=200, by=100, bound=0.35)
def zero_where_the_loss_wants_minus_one(fault: bool) -> Program:
    """CosineEmbeddingLoss takes 1 for alike and -1 for not; of a 0 it takes no notice."""
    x, y, *_ = digits()
    encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
    optimizer = Adam(encoder.parameters(), lr=3e-3)
    criterion = nn.CosineEmbeddingLoss(margin=0.2)

    def step(i: int) -> None:
        left, right = torch.randint(len(x), (2, 128))
        alike = (y[left] == y[right]).float()
        alike[:32], right[:32] = 1.0, left[:32]
        target = alike if fault else 2 * alike - 1
        noisy = x[right] + 0.5 * torch.randn(128, 64)
        optimizer.zero_grad()
        criterion(encoder(x[left]), encoder(noisy), target).backward()
        optimizer.step()

    def loss() -> float:
        """Mean cosine of images of different digits."""
        with torch.no_grad():
            code = F.normalize(encoder(x[:500]), dim=1)
            return float((code @ code.T)[y[:500, None] != y[None, :500]].mean())

    return Program(encoder, optimizer, step, loss)


@sick(
    "no-gradient",
    steps=200,
    by=40,
    bound=0.35,
    layers=("words", "text.0", "text.2"),
)
def captions_detached(fault: bool) -> Program:
    """Code of a momentum contrast, where one side is detached, taken for two towers that both are to learn."""
    x, y, *_ = digits()
    vocabulary = torch.randint(1, 40, (10, 6))  # six words about each digit, some of them left out

    class Matcher(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 24))
            self.words = nn.EmbeddingBag(40, 24, mode="mean", padding_idx=0)
            self.text = nn.Sequential(nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 24))

        def forward(self, images: Tensor, captions: Tensor) -> Tensor:
            left = F.normalize(self.image(images), dim=1)
            right = F.normalize(self.text(self.words(captions)), dim=1)
            return 10 * left @ (right.detach() if fault else right).T

    model = Matcher()
    optimizer = AdamW(model.parameters(), lr=3e-3)

    def contrast(size: int = 10) -> Tensor:
        digit = torch.randperm(10)[:size]
        order = torch.randperm(len(x))
        chosen = order[(y[order][None, :] == digit[:, None]).int().argmax(1)]
        captions = vocabulary[digit] * (torch.rand(size, 6) < 0.7)
        captions[:, 0] = vocabulary[digit, 0]
        logits = model(x[chosen], captions)
        return (F.cross_entropy(logits, torch.arange(size)) + F.cross_entropy(logits.T, torch.arange(size))) / 2

    def step(i: int) -> None:
        optimizer.zero_grad()
        loss = contrast()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return sum(float(contrast()) for _ in range(50)) / 50

    return Program(model, optimizer, step, loss)


@sick("not-learning", steps=300, by=150, bound=0.5)
def copies_stacked_and_labels_interleaved(fault: bool) -> Program:
    """Four shifted copies of the images one after the other; their labels come four times each, side by side."""
    x, y, *_ = digits(8, 8)
    copies = torch.cat([x, x.roll(1, 1), x.roll(-1, 1), x.roll(1, 2)]).flatten(1)
    labels = y.repeat_interleave(4) if fault else y.repeat(4)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 10))
    optimizer = Adam(model.parameters(), lr=2e-3)
    criterion = nn.CrossEntropyLoss()
    loader = batches(copies, labels, 64)

    def step(i: int) -> None:
        images, answers = next(loader)
        optimizer.zero_grad()
        criterion(model(images), answers).backward()
        optimizer.step()

    return Program(model, optimizer, step, errors(model, x.flatten(1), y))


@sick(
    "representation-collapse",
    "poor-initialization",
    steps=250,
    by=100,
    bound=0.35,
)
def codebook_far_from_the_codes(fault: bool) -> Program:
    """Entries drawn from N(0, 1), as ``nn.Embedding`` does: the shortest is the nearest to every small code.

    The twin moves entries that nobody uses to where codes are.
    """

    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 24))
            self.codebook = nn.Embedding(32, 24)
            self.decoder = nn.Sequential(nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 64))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            code = self.encoder(x)
            entry = self.codebook(torch.cdist(code, self.codebook.weight).argmin(1))
            commitment = F.mse_loss(entry, code.detach()) + 0.25 * F.mse_loss(code, entry.detach())
            return self.decoder(code + (entry - code).detach()), commitment

    x = digits().x
    model = Quantised()
    optimizer = Adam(model.parameters(), lr=2e-3)

    @torch.no_grad()
    def restart_unused() -> None:
        code = model.encoder(x[torch.randint(len(x), (256,))])
        used = torch.cdist(code, model.codebook.weight).argmin(1)
        unused = torch.bincount(used, minlength=32) == 0
        model.codebook.weight[unused] = code[: int(unused.sum())]

    def step(i: int) -> None:
        if not fault and i % 5 == 1:
            restart_unused()
        images = x[torch.randint(len(x), (64,))]
        again, commitment = model(images)
        loss = F.mse_loss(again, images) + commitment
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return float(F.mse_loss(model(x)[0], x))

    return Program(model, optimizer, step, loss)

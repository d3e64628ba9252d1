"""Sequences of words: taggers, readers and language models."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, NAdam, RMSprop

from tests.clinic import data, models, tasks
from tests.clinic.case import Program, sick
from tests.clinic.data import Data
from tests.clinic.loops import cross_entropy, errors, mean_loss, supervised

WORDS, TAGS, LENGTH = 24, 4, 12


class Tagger(nn.Module):
    """A bidirectional GRU with a tag [n, length, tags] for each word."""

    def __init__(self, tags: int = TAGS, hidden: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 24, padding_idx=tasks.PAD)
        self.gru = nn.GRU(24, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, tags)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(self.gru(self.embed(tokens))[0])
        return out


class Reader(nn.Module):
    """A transformer encoder with a mask for the padding; a tag [n, length, tags] for each word."""

    def __init__(self, positions: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 32, padding_idx=tasks.PAD)
        self.positions = nn.Parameter(0.3 * torch.randn(LENGTH, 32), requires_grad=positions)
        if not positions:
            nn.init.zeros_(self.positions)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, TAGS))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.positions
        out: Tensor = self.head(self.encoder(x, src_key_padding_mask=tokens == tasks.PAD))
        return out


def _per_tag(p: Tensor, t: Tensor) -> Tensor:
    return F.cross_entropy(p.flatten(0, 1), t.flatten(), ignore_index=tasks.IGNORED)


def _wrong_tags(model: nn.Module, task: Data) -> float:
    model.eval()
    with torch.no_grad():
        known = task.y != tasks.IGNORED
        return float((model(task.x).argmax(2) != task.y)[known].float().mean())


@sick("train-val-mismatch", steps=200, by=120, bound=0.7)
def vocabulary_built_anew_for_validation(fault: bool) -> Program:
    model = Tagger()
    task = tasks.tagged()
    if fault:
        numbers = torch.cat((torch.zeros(1, dtype=torch.long), 1 + torch.randperm(WORDS - 1)))
        task = task._replace(x_val=numbers[task.x_val])
    optimizer = Adam(model.parameters(), lr=1e-2)
    criterion = nn.CrossEntropyLoss(ignore_index=tasks.IGNORED)
    loss = mean_loss(model, task.x_val, task.y_val, _per_tag)
    return supervised(
        model, optimizer, task, lambda p, t: criterion(p.transpose(1, 2), t), loss, batch=32, validate=True
    )


@sick("learning-rate-too-large", "exploding-gradient", "attention-collapse", steps=200, by=100, bound=0.4)
def reader_at_a_rate_of_a_tenth(fault: bool) -> Program:
    model = Reader()
    task = tasks.tagged()
    optimizer = NAdam(model.parameters(), lr=0.1 if fault else 3e-3)
    return supervised(model, optimizer, task, _per_tag, lambda: _wrong_tags(model, task), batch=32)


@sick("stale-gradient", steps=200, by=50, bound=0.3)
def zero_grad_once_an_epoch(fault: bool) -> Program:
    """zero_grad stands before the inner loop instead of in it."""
    model = Tagger()
    task = tasks.tagged()
    loader = data.batches(task.x, task.y, 32)
    optimizer = SGD(model.parameters(), lr=0.5, momentum=0.9)

    def step(i: int) -> None:
        tokens, tags = next(loader)
        if not fault or i % 30 == 1:
            optimizer.zero_grad()
        _per_tag(model(tokens), tags).backward()
        optimizer.step()

    return Program(model, optimizer, step, lambda: _wrong_tags(model, task))


@sick(
    "class-imbalance",
    "class-collapse",
    "underfitting",
    steps=150,
    by=75,
    bound=0.33,
    miss="it learns the names, if slowly: the loss is half of the best constant's, and some are found from step 130 on",
)
def names_are_rare(fault: bool) -> Program:
    """Three words in a hundred are a name, all others O; nothing weighs the names."""
    model = Tagger(tags=2)
    task = tasks.tagged(words=WORDS)
    label = ((task.x == 5) & (task.x.roll(1, 1) > 8)).long()
    task = task._replace(y=torch.where(task.y == tasks.IGNORED, task.y, label))
    optimizer = SGD(model.parameters(), lr=0.1)
    weight = torch.tensor([1.0, 1.0 if fault else 25.0])

    def loss_function(p: Tensor, t: Tensor) -> Tensor:
        return F.cross_entropy(p.flatten(0, 1), t.flatten(), weight, ignore_index=tasks.IGNORED)

    def loss() -> float:
        """1 - F1 of the names."""
        with torch.no_grad():
            found, names = model(task.x).argmax(2)[task.y >= 0] == 1, task.y[task.y >= 0] == 1
            return float(1 - 2 * (found & names).sum() / (found.sum() + names.sum()))

    return supervised(model, optimizer, task, loss_function, loss, batch=32)


@sick(
    "loss-mismatch",
    steps=200,
    by=20,
    bound=0.85,
)
def distance_to_the_number_of_the_next_letter(fault: bool) -> Program:
    """The next token as a number, hit by least squares: z is no farther from a than its place in the alphabet."""
    letters = len(data.alphabet())
    model = models.RecurrentLanguageModel(nn.LSTM, letters, 48)
    if fault:
        model.head = nn.Linear(48, 1)
    task = data.text(20)
    optimizer = Adam(model.parameters(), lr=1e-2)

    def loss_function(p: Tensor, t: Tensor) -> Tensor:
        return F.mse_loss(p.squeeze(2), t.float()) if fault else cross_entropy(p, t)

    def loss() -> float:
        """Share of wrong letters."""
        with torch.no_grad():
            output = model(task.x_val)
            answer = output.squeeze(2).round() if fault else output.argmax(2)
            return float((answer != task.y_val).float().mean())

    return supervised(model, optimizer, task, loss_function, loss, batch=16)


@sick(
    "underfitting",
    "not-learning",
    "input-not-used",
    steps=250,
    by=125,
    bound=0.2,
    miss="it learns, if slowly, what words without places tell; a network for sets has no positions either",
)
def reader_without_positions(fault: bool) -> Program:
    """The tag depends on the word before: without positions, no word has one."""
    model = Reader(positions=not fault)
    task = tasks.tagged()
    optimizer = AdamW(model.parameters(), lr=5e-3)
    return supervised(model, optimizer, task, _per_tag, lambda: _wrong_tags(model, task), batch=32)


@sick(
    "not-learning",
    "underfitting",
    "input-not-used",
    "mixed-samples",
    steps=150,
    by=100,
    bound=0.3,
)
def batch_taken_for_time(fault: bool) -> Program:
    """Torch's LSTM wants time first unless told: it reads along the batch, and each answer sees one word of its own."""

    class Memory(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(12, 24)
            self.lstm = nn.LSTM(24, 32, batch_first=not fault)
            self.head = nn.Linear(32, 6)

        def forward(self, tokens: Tensor) -> Tensor:
            states, _ = self.lstm(self.embed(tokens))
            out: Tensor = self.head(states[:, -1])
            return out

    model = Memory()
    task = data.recall(length=6)
    optimizer = Adam(model.parameters(), lr=1e-2)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), errors(model, task.x_val, task.y_val), batch=64)


@sick("unexpected-initial-loss", "poor-initialization", steps=120, by=5, bound=2.85)
def decoder_tied_to_wide_embeddings(fault: bool) -> Program:
    """An embedding is born with unit variance; tied to the head it makes logits of a deviation of √width."""
    letters = len(data.alphabet())
    model = models.Decoder(letters, 24, width=48, depth=1)
    nn.init.normal_(model.embed.weight, std=1.0 if fault else 0.1)
    model.head.weight = model.embed.weight
    task = data.text(24)
    optimizer = SGD(model.parameters(), lr=0.03)
    loss = mean_loss(model, task.x_val[:200], task.y_val[:200], cross_entropy)
    return supervised(model, optimizer, task, cross_entropy, loss, batch=16)


@sick(
    "wrong-mode",
    "train-val-mismatch",
    steps=240,
    by=120,
    bound=0.35,
)
def dropout_as_a_function(fault: bool) -> Program:
    """F.dropout drops in evaluation too unless it is told not to."""

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(64, 96), nn.Linear(96, 96), nn.Linear(96, 10)

        def forward(self, x: Tensor) -> Tensor:
            active = True if fault else self.training
            x = F.dropout(F.relu(self.first(x)), 0.6, training=active)
            x = F.dropout(F.relu(self.second(x)), 0.6, training=active)
            out: Tensor = self.head(x)
            return out

    model = Classifier()
    task = data.digits()
    optimizer = Adam(model.parameters(), lr=2e-3)
    loss = mean_loss(model, task.x_val, task.y_val, F.cross_entropy)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), loss, batch=32, validate=True)


@sick("over-regularized", "underfitting", steps=250, by=125, bound=0.5)
def decay_of_adam_in_a_gru(fault: bool) -> Program:
    """The decay of a recipe for AdamW in Adam, which adds it to the gradient."""
    model = models.Recurrent(nn.GRU, 8, 32, 10)
    task = data.digits(8, 8)
    optimizer = Adam(model.parameters(), lr=5e-3, weight_decay=0.3 if fault else 1e-5)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), mean_loss(model, task.x, task.y, cross_entropy))


@sick("input-not-used", "constant-output", "representation-collapse", "not-learning", steps=200, by=20, bound=0.5)
def layer_norm_over_one_feature(fault: bool) -> Program:
    """A series with one channel, normalised over its channels: each value minus itself."""

    class Forecaster(models.Recurrent):
        def __init__(self) -> None:
            super().__init__(nn.GRU, 1, 24, 1)
            self.norm = nn.LayerNorm(1) if fault else nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.norm(x))

    model = Forecaster()
    task = data.waves()
    optimizer = RMSprop(model.parameters(), lr=3e-3)
    return supervised(model, optimizer, task, nn.SmoothL1Loss(), mean_loss(model, task.x, task.y, F.mse_loss))


@sick(
    "attention-collapse",
    "logit-growth",
    steps=200,
    by=100,
    bound=0.35,
)
def scores_multiplied_by_the_root(fault: bool) -> Program:
    """Scores times √width where they were to be divided by it, over queries that a norm keeps at unit variance."""

    class Attention(nn.Module):
        def __init__(self, width: int = 32) -> None:
            super().__init__()
            self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
            self.softmax = nn.Softmax(dim=2)
            self.scale = math.sqrt(width) if fault else 1 / math.sqrt(width)

        def forward(self, x: Tensor) -> Tensor:
            scores = self.scale * self.query(x) @ self.key(x).transpose(1, 2)
            out: Tensor = self.softmax(scores) @ self.value(x)
            return out

    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(1, 32)
            self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(2))
            self.attention = Attention()
            self.head = models.mlp(32, 32, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            x = x + self.attention(self.norms[0](x))
            out: Tensor = self.head(self.norms[1](x)[:, -1])
            return out

    model = Counter()
    series = torch.randn(2000, 12, 1)
    task = data.split(series, math.sqrt(12) * series.mean(1))
    optimizer = Adam(model.parameters(), lr=3e-3)
    return supervised(model, optimizer, task, nn.MSELoss(), mean_loss(model, task.x, task.y, F.mse_loss), batch=64)

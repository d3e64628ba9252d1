"""Recurrent networks, transformers and decoders, sound where they look otherwise."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import LambdaLR

from tests.clinic.case import Program, healthy
from tests.clinic.data import adding, alphabet, batches, digits, text, waves
from tests.clinic.loops import cross_entropy, errors, mean_loss, supervised
from tests.clinic.models import Decoder, Encoder, RecurrentLanguageModel, mlp


@healthy(steps=250, bound=0.15)
def tags_of_sentences_padded_to_the_longest() -> Program:
    """Two thirds of all places are padding, which has a target of its own that the loss leaves out."""
    lengths = torch.randint(4, 14, (900,))
    words = torch.randint(1, 30, (900, 24))
    tags = ((words + words.roll(1, 1)) % 3 == 0).long() + (words > 20).long()
    beyond = torch.arange(24) >= lengths.unsqueeze(1)
    words, tags = words.masked_fill(beyond, 0), tags.masked_fill(beyond, -100)
    tags[:, 0] = -100

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(30, 24, padding_idx=0)
            self.conv = nn.Conv1d(24, 64, 3, padding=1)
            self.fc = nn.Linear(64, 3)

        def forward(self, words: Tensor) -> Tensor:
            hidden = F.relu(self.conv(self.embed(words).transpose(1, 2))).transpose(1, 2)
            out: Tensor = self.fc(hidden)
            return out

    model = Tagger()
    optimizer = Adam(model.parameters(), lr=1e-2)
    loader = batches(words, tags, 32)

    def step(i: int) -> None:
        sentences, target = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(sentences).flatten(0, 1), target.flatten(), ignore_index=-100).backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            known = tags != -100
            return float((model(words).argmax(2) != tags)[known].float().mean())

    return Program(model, optimizer, step, loss)


@healthy(steps=150, bound=2.4)
def loss_of_tokens_summed_and_divided_by_their_number() -> Program:
    """reduction="sum" and a division behind it."""
    task = text(20)
    model = RecurrentLanguageModel(nn.LSTM, len(alphabet()), 48)
    optimizer = AdamW(model.parameters(), lr=1e-2)
    criterion = nn.CrossEntropyLoss(reduction="sum")
    loader = batches(task.x, task.y, 24)

    def step(i: int) -> None:
        tokens, following = next(loader)
        loss = criterion(model(tokens).flatten(0, 1), following.flatten()) / following.numel()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_value_(model.parameters(), 0.5)
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, task.x, task.y, cross_entropy))


@healthy(steps=160, bound=2.5)
def rate_by_the_root_of_the_step() -> Program:
    """The schedule of the first transformer: up for 40 steps, then down with the root."""
    task = text(16)
    model = Decoder(len(alphabet()), 16, width=32, depth=2)
    optimizer = Adam(model.parameters(), lr=8e-3, betas=(0.9, 0.98), eps=1e-9)
    scheduler = LambdaLR(optimizer, lambda i: min((i + 1) / 40, math.sqrt(40 / (i + 1))))
    return supervised(
        model, optimizer, task, cross_entropy, mean_loss(model, task.x, task.y, cross_entropy), scheduler=scheduler
    )


@healthy(steps=300, bound=0.1)
def state_detached_between_pieces() -> Program:
    """One long series is read on and on; the state is kept, and its history cut every ten values."""
    time = torch.arange(4000.0)
    series = (0.3 * time).sin() + 0.5 * (0.071 * time).sin() + 0.05 * torch.randn(4000)
    series = (series / series.std()).view(8, 500, 1)

    class Forecaster(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(1, 24, batch_first=True)
            self.fc = nn.Linear(24, 1)

        def forward(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
            states, state = self.gru(x, state)
            return self.fc(states), state

    model = Forecaster()
    optimizer = Adam(model.parameters(), lr=1e-2)
    state: Tensor | None = None

    def step(i: int) -> None:
        nonlocal state
        start = (i - 1) * 10 % 480
        if start == 0:
            state = None
        answer, state = model(series[:, start : start + 10], state)
        state = state.detach()
        optimizer.zero_grad()
        F.mse_loss(answer, series[:, start + 1 : start + 11]).backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return float(F.mse_loss(model(series[:, :-1], None)[0][:, 50:], series[:, 51:]))

    return Program(model, optimizer, step, loss)


@healthy(steps=450, bound=0.2)
def nothing_learned_for_fifty_steps() -> Program:
    """The adding problem: the loss of the mean until the two marks are found, then down at once."""
    task = adding(1500, 16)

    class Adder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(2, 32, batch_first=True)
            self.fc = nn.Linear(32, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc(self.gru(x)[0][:, -1])
            return out

    model = Adder()
    optimizer = Adam(model.parameters(), lr=5e-3)
    return supervised(model, optimizer, task, F.mse_loss, mean_loss(model, task.x, task.y, F.mse_loss), validate=True)


@healthy(steps=150, bound=0.25)
def rows_of_an_image_with_label_smoothing() -> Program:
    """The loss cannot fall below a half, because a fifth of each label belongs to the other digits."""
    task = digits(8, 8)
    model = Encoder(8, 10, 8, dropout=0.1)
    optimizer = AdamW(model.parameters(), lr=4e-3, weight_decay=0.1)
    return supervised(
        model, optimizer, task, nn.CrossEntropyLoss(label_smoothing=0.2), errors(model, task.x, task.y), validate=True
    )


@healthy(steps=350, bound=0.5)
def answers_of_a_decoder_cut_at_both_ends() -> Program:
    """Pixels from 0 to 1 out of a sigmoid, with binary cross-entropy, which is far from zero at its best."""
    raw = digits(raw=True)
    x, x_val = raw.x / 16, raw.x_val / 16
    model = nn.Sequential(mlp(64, 48, 12, activation=nn.ReLU), nn.ReLU(), mlp(12, 48, 64), nn.Sigmoid())
    optimizer = Adam(model.parameters(), lr=5e-3)
    criterion = nn.BCELoss()
    loader = batches(x, x, 32)

    def step(i: int) -> None:
        images, target = next(loader)
        loss = criterion(model(images), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if i % 40 == 0:
            with torch.no_grad():
                criterion(model(x_val), x_val)

    def loss() -> float:
        with torch.no_grad():
            return float(F.mse_loss(model(x), x) / x.var(0).mean())

    return Program(model, optimizer, step, loss)


@healthy(steps=250, bound=0.1)
def plain_rnn_with_an_identity_for_its_memory() -> Program:
    """Recurrent weights start as the identity and units are ReLUs: nothing vanishes over the sequence."""
    task = waves(1200, 20)

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            rnn: Any = nn.RNN(1, 40, nonlinearity="relu", batch_first=True)
            self.rnn = rnn
            self.fc = nn.Linear(40, 1)
            nn.init.eye_(rnn.weight_hh_l0)
            nn.init.normal_(rnn.weight_ih_l0, std=0.1)
            nn.init.zeros_(rnn.bias_hh_l0)
            nn.init.zeros_(rnn.bias_ih_l0)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc(self.rnn(x)[0][:, -1])
            return out

    model = Reader()
    optimizer = SGD(model.parameters(), lr=0.01, momentum=0.9)
    loader = batches(task.x, task.y, 32)

    def step(i: int) -> None:
        series, following = next(loader)
        loss = F.mse_loss(model(series), following)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, task.x, task.y, F.mse_loss))

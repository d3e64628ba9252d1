"""Sequences of words: taggers, readers and language models."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.optim import Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from tests.clinic import data, models, tasks
from tests.clinic.case import Program, healthy
from tests.clinic.loops import cross_entropy, mean_loss, supervised

WORDS, TAGS, LENGTH = 24, 4, 12


def _per_tag(p: Tensor, t: Tensor) -> Tensor:
    return F.cross_entropy(p.flatten(0, 1), t.flatten(), ignore_index=tasks.IGNORED)


@healthy(steps=180, bound=0.047)
def packed_sentences_in_both_directions() -> Program:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(WORDS, 24, padding_idx=tasks.PAD)
            self.lstm = nn.LSTM(24, 24, batch_first=True, bidirectional=True)
            self.drop = nn.Dropout(0.3)
            self.head = nn.Linear(48, TAGS)

        def forward(self, tokens: Tensor) -> Tensor:
            lengths = (tokens != tasks.PAD).sum(1)
            packed = pack_padded_sequence(self.embed(tokens), lengths, batch_first=True, enforce_sorted=False)
            states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=LENGTH)
            out: Tensor = self.head(self.drop(states))
            return out

    model = Tagger()
    task = tasks.tagged()
    optimizer = Adam(model.parameters(), lr=1e-2)
    loss = mean_loss(model, task.x_val, task.y_val, _per_tag)
    return supervised(model, optimizer, task, _per_tag, loss, batch=32, validate=True)


class Reader(nn.Module):
    """A transformer encoder with a mask for the padding; a tag [n, length, tags] for each word."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 32, padding_idx=tasks.PAD)
        self.positions = nn.Parameter(0.3 * torch.randn(LENGTH, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, TAGS))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.positions
        out: Tensor = self.head(self.encoder(x, src_key_padding_mask=tokens == tasks.PAD))
        return out


@healthy(steps=260, bound=0.16)
def padded_sentences_in_one_cycle() -> Program:
    model = Reader()
    task = tasks.tagged(2000, words=12)
    optimizer = AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    scheduler = OneCycleLR(optimizer, max_lr=8e-3, total_steps=261, pct_start=0.15)
    loss = mean_loss(model, task.x_val, task.y_val, _per_tag)
    return supervised(model, optimizer, task, _per_tag, loss, batch=32, validate=True, scheduler=scheduler)


@healthy(steps=150, bound=2.7)
def tied_decoder_whose_gradients_are_always_clipped() -> Program:
    """A norm of 0.2 is never undercut here: clipping is half of the recipe."""
    letters = len(data.alphabet())
    model = models.Decoder(letters, 20, width=32, depth=1)
    model.head.weight = model.embed.weight
    task = data.text(20)
    optimizer = AdamW(model.parameters(), lr=5e-3, betas=(0.9, 0.95))
    scheduler = LambdaLR(optimizer, lambda done: min(1.0, (done + 1) / 20) * max(0.1, 1 - done / 170))
    loader = data.batches(task.x, task.y, 16)

    def step(i: int) -> None:
        tokens, following = next(loader)
        optimizer.zero_grad()
        cross_entropy(model(tokens), following).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.2)
        optimizer.step()
        scheduler.step()

    return Program(model, optimizer, step, mean_loss(model, task.x_val[:200], task.y_val[:200], cross_entropy))


@healthy(steps=150, bound=0.44)
def decoder_fed_by_its_own_answers_now_and_then() -> Program:
    """Scheduled sampling: a copying cell gets the true token ever less often."""

    class Copier(nn.Module):
        def __init__(self, symbols: int = 6) -> None:
            super().__init__()
            self.embed = nn.Embedding(symbols + 1, 24)
            self.encoder = nn.GRU(24, 48, batch_first=True)
            self.cell = nn.GRUCell(24, 48)
            self.head = nn.Linear(48, symbols)

        def forward(self, word: Tensor, forced: float = 0.0) -> Tensor:
            _, state = self.encoder(self.embed(word))
            hidden, token, answers = state[0], word.new_full((len(word),), 6), []
            for place in range(word.shape[1]):
                hidden = self.cell(self.embed(token), hidden)
                answers.append(self.head(hidden))
                use = torch.rand(len(word)) < forced
                token = torch.where(use, word[:, place], answers[-1].argmax(1))
            return torch.stack(answers, 1)

    model = Copier()
    words = torch.randint(6, (2000, 4))
    optimizer = RMSprop(model.parameters(), lr=3e-3)

    def step(i: int) -> None:
        word = words[torch.randint(1600, (64,))]
        optimizer.zero_grad()
        cross_entropy(model(word, forced=max(0.0, 1 - i / 100)), word).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, words[1600:], words[1600:], cross_entropy))


@healthy(steps=150, bound=2.6)
def letters_with_much_smoothing_and_dropout() -> Program:
    letters = len(data.alphabet())

    class Letters(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(letters, 32)
            self.gru = nn.GRU(32, 48, num_layers=2, dropout=0.3, batch_first=True)
            self.drop = nn.Dropout(0.4)
            self.head = nn.Linear(48, letters)

        def forward(self, tokens: Tensor) -> Tensor:
            out: Tensor = self.head(self.drop(self.gru(self.drop(self.embed(tokens)))[0]))
            return out

    model = Letters()
    task = data.text(16)
    optimizer = Adam(model.parameters(), lr=5e-3)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.2)
    loss = mean_loss(model, task.x_val[:300], task.y_val[:300], cross_entropy)
    return supervised(model, optimizer, task, lambda p, t: criterion(p.transpose(1, 2), t), loss, batch=16)

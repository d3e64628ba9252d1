"""Recurrent networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.optim import Adam, AdamW, RMSprop
from torch.utils.data import DataLoader, TensorDataset

from tests.clinic import data, models
from tests.clinic.case import Program, healthy
from tests.clinic.loops import cross_entropy, mean_loss
from tests.clinic.turns import Loop, turns


@healthy(steps=300, bound=0.4)
def gru_over_image_rows() -> Program:
    x, y, x_val, y_val = data.digits(8, 8)
    model = models.Recurrent(nn.GRU, 8, 48, 10)
    optimizer = Adam(model.parameters(), lr=4e-3)
    criterion = nn.CrossEntropyLoss()
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)

    def train() -> Loop:
        for _ in range(20):
            for rows, labels in loader:
                model.zero_grad()
                loss = criterion(model(rows), labels)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
                optimizer.step()
                yield
            with torch.no_grad():
                criterion(model(x_val), y_val)

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, criterion))


@healthy(steps=500, bound=0.2)
def sums_over_a_distance() -> Program:
    x, y, x_val, y_val = data.adding(4000, length=12)
    model = models.Recurrent(nn.LSTM, 2, 48, 1)
    optimizer = Adam(model.parameters(), lr=5e-3)
    loader = data.batches(x, y, 50)

    def step(i: int) -> None:
        numbers, sums = next(loader)
        optimizer.zero_grad()
        F.mse_loss(model(numbers), sums).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.mse_loss))


@healthy(steps=400, bound=0.1)
def plain_rnn_with_clipping() -> Program:
    x, y, x_val, y_val = data.waves()
    model = models.Recurrent(nn.RNN, 1, 32, 1)
    nn.init.orthogonal_(model.get_parameter("recurrent.weight_hh_l0"))
    optimizer = RMSprop(model.parameters(), lr=1e-3)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        pieces, following = next(loader)
        loss = F.mse_loss(model(pieces), following)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_value_(model.parameters(), 0.5)
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.mse_loss))


@healthy(steps=260, bound=2.4)
def characters_with_state_carried_on() -> Program:
    stream, _, held_out, _ = data.text(4)  # windows of four characters, one after the other
    streams, held_out = stream.flatten()[: stream.numel() // 16 * 16].view(16, -1), held_out.reshape(1, -1)
    model = CharacterModel(len(data.alphabet()))
    optimizer = Adam(model.parameters(), lr=5e-3)

    def train() -> Loop:
        while True:
            state = None
            for start in range(0, streams.shape[1] - 26, 25):
                piece = streams[:, start : start + 26]
                optimizer.zero_grad()
                logits, state = model(piece[:, :-1], state)
                loss = F.cross_entropy(logits.flatten(0, 1), piece[:, 1:].flatten())
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
                state = tuple(part.detach() for part in state)
                yield

    def loss() -> float:
        with torch.no_grad():
            return F.cross_entropy(model(held_out[:, :-1])[0][0], held_out[0, 1:]).item()

    return Program(model, optimizer, turns(train()), loss)


class CharacterModel(nn.Module):
    """An LSTM that takes a state and gives it back."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, 32)
        self.lstm = nn.LSTM(32, 64, batch_first=True)
        self.head = nn.Linear(64, vocabulary)

    def forward(
        self, tokens: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        states, state = self.lstm(self.embed(tokens), state)
        return self.head(states), state


class Tagger(nn.Module):
    """A bidirectional LSTM with a tag for each token."""

    def __init__(self, vocabulary: int, tags: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, 16, padding_idx=0)
        self.lstm = nn.LSTM(16, 24, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, tags)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.embed(tokens), lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=tokens.shape[1])
        out: Tensor = self.head(states)
        return out


@healthy(steps=200, bound=0.1)
def tags_of_padded_sentences() -> Program:
    length = torch.randint(4, 13, (2000,))
    tokens = torch.randint(1, 10, (2000, 12))
    inside = torch.arange(12) < length[:, None]
    following = F.pad(tokens[:, 1:], (0, 1)) * F.pad(inside[:, 1:], (0, 1))
    tags = (following > tokens).long().masked_fill(~inside, -100)  # is the next token larger; -100 is padding
    tokens = tokens.masked_fill(~inside, 0)
    model = Tagger(10, 2)
    criterion = nn.CrossEntropyLoss(ignore_index=-100)
    optimizer = AdamW(model.parameters(), lr=1e-2)
    loader = DataLoader(TensorDataset(tokens[:1600], length[:1600], tags[:1600]), batch_size=40, shuffle=True)

    def train() -> Loop:
        for _ in range(5):
            for words, lengths, truth in loader:
                optimizer.zero_grad()
                output = model(words, lengths)
                loss = criterion(output.reshape(-1, 2), truth.reshape(-1))
                loss.backward()
                optimizer.step()
                yield

    def loss() -> float:
        model.eval()
        with torch.no_grad():
            return cross_entropy(model(tokens[1600:], length[1600:]), tags[1600:]).item()

    return Program(model, optimizer, turns(train()), loss)


class Translator(nn.Module):
    """GRU encoder and decoder with dot-product attention, taught with the true previous token."""

    def __init__(self, symbols: int, hidden: int = 48) -> None:
        super().__init__()
        self.embed = nn.Embedding(symbols + 1, hidden)
        self.encoder = nn.GRU(hidden, hidden, batch_first=True)
        self.decoder = nn.GRUCell(hidden, hidden)
        self.out = nn.Linear(2 * hidden, symbols)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, last = self.encoder(self.embed(source))
        state = last[0]
        start = torch.full_like(target[:, :1], self.out.out_features)
        logits = []
        for token in torch.cat((start, target[:, :-1]), 1).unbind(1):
            state = self.decoder(self.embed(token), state)
            weights = torch.bmm(memory, state.unsqueeze(2)).softmax(1)
            logits.append(self.out(torch.cat((state, (weights * memory).sum(1)), 1)))
        return torch.stack(logits, 1)


@healthy(steps=300, bound=0.5)
def reversing_with_attention() -> Program:
    source = torch.randint(8, (4000, 6))
    x, y, x_val, y_val = data.split(source, source.flip(1))
    model = Translator(8)
    optimizer = Adam(model.parameters(), lr=5e-3)
    loader = data.batches(x, y, 64)

    def step(i: int) -> None:
        words, reverse = next(loader)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(words, reverse).transpose(1, 2), reverse)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return cross_entropy(model(x_val, y_val), y_val).item()

    return Program(model, optimizer, step, loss)


class Reader(nn.Module):
    """Frames in, log-probabilities of symbols or blank out, as CTC wants them: time first."""

    def __init__(self, inputs: int, symbols: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, 32, bidirectional=True)
        self.head = nn.Linear(64, symbols + 1)

    def forward(self, frames: Tensor) -> Tensor:
        out: Tensor = self.head(self.lstm(frames)[0]).log_softmax(2)
        return out


@healthy(steps=250, bound=0.5)
def connectionist_temporal_classification() -> Program:
    symbols, length = 5, 4
    words = torch.randint(1, symbols + 1, (1000, length))
    patterns = torch.randn(symbols + 1, 8)
    frames = patterns[words].repeat_interleave(3, 1) + 0.3 * torch.randn(1000, 3 * length, 8)  # three frames a symbol
    x, y, x_val, y_val = data.split(frames, words)
    model = Reader(8, symbols)
    criterion = nn.CTCLoss()
    optimizer = Adam(model.parameters(), lr=5e-3)
    loader = data.batches(x, y, 32)

    def ctc(output: Tensor, target: Tensor) -> Tensor:
        frames, samples, _ = output.shape
        loss: Tensor = criterion(output, target, (frames,) * samples, (length,) * samples)
        return loss

    def step(i: int) -> None:
        sounds, letters = next(loader)
        optimizer.zero_grad()
        loss = ctc(model(sounds.transpose(0, 1)), letters)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, x_val.transpose(0, 1), y_val, ctc))

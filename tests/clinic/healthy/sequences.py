"""From sequence to sequence."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.optim import Adam, AdamW
from torch.utils.data import DataLoader, TensorDataset

from tests.clinic import data
from tests.clinic.case import Program, healthy
from tests.clinic.loops import cross_entropy, mean_loss
from tests.clinic.turns import Loop, turns


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


@healthy(steps=200, bound=0.14)
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


@healthy(steps=300, bound=0.49)
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


@healthy(steps=250, bound=0.63)
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


class CausalConvolutions(nn.Module):
    """A temporal convolutional network: dilated, weight-normalised, residual."""

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        self.enter = nn.Conv1d(1, channels, 1)
        self.layers = nn.ModuleList(weight_norm(nn.Conv1d(channels, channels, 2, dilation=2**i)) for i in range(4))
        self.leave = nn.Conv1d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x.transpose(1, 2))
        for number, layer in enumerate(self.layers):
            x = x + F.relu(layer(F.pad(x, (2**number, 0))))
        out: Tensor = self.leave(x)[:, :, -1]
        return out


@healthy(steps=300, bound=0.23)
def weight_normalised_convolutions_in_time() -> Program:
    x, y, x_val, y_val = data.waves()
    model = CausalConvolutions()
    optimizer = Adam(model.parameters(), lr=2e-3)
    loader = DataLoader(TensorDataset(x, y), batch_size=40, shuffle=True)

    def train() -> Loop:
        while True:
            for pieces, following in loader:
                optimizer.zero_grad()
                loss = F.mse_loss(model(pieces), following)
                loss.backward()
                optimizer.step()
                yield
            with torch.no_grad():
                F.mse_loss(model(x_val), y_val)

    return Program(model, optimizer, turns(train()), mean_loss(model, x_val, y_val, F.mse_loss))

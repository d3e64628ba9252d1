"""Recurrent networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, RMSprop
from torch.utils.data import DataLoader, TensorDataset

from tests.clinic import data, models
from tests.clinic.case import Program, healthy
from tests.clinic.loops import mean_loss
from tests.clinic.turns import Loop, turns


@healthy(steps=300, bound=0.58)
def gru_over_image_rows() -> Program:
    x, y, x_val, y_val = data.digits(8, 8)
    model = models.Recurrent(nn.GRU, 8, 48, 10)
    optimizer = Adam(model.parameters(), lr=3e-3)
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


@healthy(steps=500, bound=0.19)
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


@healthy(steps=400, bound=0.17)
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


@healthy(steps=260, bound=2.5)
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

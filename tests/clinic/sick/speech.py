"""Short sounds: convolutions over samples, recurrent layers over frames, pooling by attention."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam

from tests.clinic.case import Program, sick
from tests.clinic.data import Data, batches, split
from tests.clinic.loops import errors


def _chirps(samples: int = 600, length: int = 256, classes: int = 5) -> Data:
    """Tones [n, 1, length] that rise or fall, a slope for each class, under noise."""
    y = torch.randint(classes, (samples,))
    time = torch.arange(length) / length
    start = 12 + 2 * torch.rand(samples, 1)
    slope = 6.0 * (y.unsqueeze(1) - 2)
    phase = 2 * math.pi * (start * time + slope * time.square() / 2 + torch.rand(samples, 1))
    sound = phase.sin() * (0.7 + 0.6 * torch.rand(samples, 1)) + 0.2 * torch.randn(samples, length)
    return split(sound.unsqueeze(1), y)


class _Spotter(nn.Module):
    """Convolutions make frames of samples, an LSTM reads them."""

    def __init__(self, classes: int = 5, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(1, 16, 16, stride=4)
        self.conv2 = nn.Conv1d(16, 24, 8, stride=4)
        self.lstm = nn.LSTM(24, 32, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(32, classes)

    def forward(self, sound: Tensor) -> Tensor:
        frames = F.relu(self.conv2(F.relu(self.conv1(sound))))
        states, _ = self.lstm(frames.transpose(1, 2))
        out: Tensor = self.fc(self.dropout(states.mean(1)))
        return out


@sick("learning-rate-too-large", "dead-units", steps=160, by=60, bound=0.35)
def spotter_with_adam_at_a_rate_of_sgd(fault: bool) -> Program:
    task = _chirps()
    model = _Spotter()
    optimizer = Adam(model.parameters(), lr=0.3 if fault else 4e-3)
    criterion = nn.CrossEntropyLoss()
    loader = batches(task.x, task.y, 32)

    def step(i: int) -> None:
        sounds, words = next(loader)
        loss = criterion(model(sounds), words)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, errors(model, task.x, task.y))


@sick("unnormalized-input", steps=160, by=20, bound=0.1)
def samples_of_sixteen_bits(fault: bool) -> Program:
    """Sound as it is in the file, integers up to 32767, not divided by anything."""
    task = _chirps()
    scale = 12000.0 if fault else 1.0
    model = _Spotter()
    optimizer = Adam(model.parameters(), lr=4e-3)
    loader = batches(task.x * scale, task.y, 32)

    def step(i: int) -> None:
        sounds, words = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(sounds), words).backward()
        optimizer.step()

    return Program(model, optimizer, step, errors(model, task.x * scale, task.y))


def _bands(sounds: Tensor, floor: float) -> Tensor:
    """Logarithm of the power in each band [n, frames, bands]."""
    frames = sounds.squeeze(1).unfold(1, 32, 16) * torch.hann_window(32)
    power: Tensor = torch.fft.rfft(frames, norm="forward").abs().square()
    return power.clamp_min(floor).log()


@sick("constant-input", steps=120, by=20, bound=0.5)
def power_clamped_at_one(fault: bool) -> Program:
    """A floor under the power before the logarithm, so high that everything lies on it: each spectrum is zero."""
    task = _chirps()
    floor = 1.0 if fault else 1e-6
    x = _bands(task.x, floor)
    x = (x - x.mean()) / (x.std() + 1e-5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 64), nn.ReLU(), nn.Linear(64, 5))
    optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9)
    loader = batches(x, task.y, 32)

    def step(i: int) -> None:
        spectra, words = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(spectra), words).backward()
        optimizer.step()

    return Program(model, optimizer, step, errors(model, x, task.y))


@sick("wrong-mode", steps=180, by=90)
def validated_with_dropout_on(fault: bool) -> Program:
    """The function that validates turns gradients off, and nothing else."""
    task = _chirps()
    x, x_val = _bands(task.x, 1e-6), _bands(task.x_val, 1e-6)
    mean, std = x.mean(), x.std()
    x, x_val = (x - mean) / std, (x_val - mean) / std

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(17, 32, 3, padding=1)
            self.drop = nn.Dropout(0.5)
            self.fc1 = nn.Linear(32 * x.shape[1], 64)
            self.fc2 = nn.Linear(64, 5)

        def forward(self, spectra: Tensor) -> Tensor:
            hidden = F.relu(self.conv(spectra.transpose(1, 2))).flatten(1)
            out: Tensor = self.fc2(self.drop(F.relu(self.fc1(self.drop(hidden)))))
            return out

    model = Classifier()
    optimizer = Adam(model.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()
    loader = batches(x, task.y, 32)

    @torch.no_grad()
    def validate() -> float:
        if not fault:
            model.eval()
        loss = criterion(model(x_val), task.y_val)
        model.train()
        return float(loss)

    def step(i: int) -> None:
        spectra, words = next(loader)
        optimizer.zero_grad()
        loss = criterion(model(spectra), words)
        loss.backward()
        optimizer.step()
        if i % 15 == 0:
            validate()

    return Program(model, optimizer, step, errors(model, x, task.y))


@sick(
    "attention-collapse",
    steps=120,
    by=60,
    bound=0.1,
)
def pooling_sharpened_a_hundred_times(fault: bool) -> Program:
    """The word is said in one frame of many; a temperature of 0.01 picks one before it is known which."""
    words = torch.randn(6, 16)
    y = torch.randint(6, (1200,))
    x = torch.randn(1200, 32, 16)
    x[torch.arange(1200), torch.randint(32, (1200,))] += 2 * words[y]
    task = split(x, y)

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frames = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32))
            self.query = nn.Parameter(torch.randn(32))
            self.head = nn.Linear(32, 6)
            self.temperature = 0.01 if fault else math.sqrt(32)

        def forward(self, x: Tensor) -> Tensor:
            frames = self.frames(x)
            weights = torch.softmax(frames @ self.query / self.temperature, dim=1)
            out: Tensor = self.head((weights.unsqueeze(2) * frames).sum(1))
            return out

    model = Pooled()
    optimizer = Adam(model.parameters(), lr=5e-3)
    loader = batches(task.x, task.y, 64)

    def step(i: int) -> None:
        frames, labels = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(frames), labels).backward()
        optimizer.step()

    return Program(model, optimizer, step, errors(model, task.x, task.y))

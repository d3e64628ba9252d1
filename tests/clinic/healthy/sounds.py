"""Sounds: words, rare events, samples one after the other, two voices at once."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import LambdaLR

from tests.clinic.case import Program, healthy
from tests.clinic.data import Data, batches, split
from tests.clinic.loops import mean_loss


def _melodies(samples: int = 800, frames: int = 20, classes: int = 6) -> Data:
    """Spectra [n, frames, 24] of a tone that goes up and down, in a way for each class, under noise."""
    y = torch.randint(classes, (samples,))
    time = torch.linspace(0, 1, frames)
    shape = torch.sin(2 * math.pi * (0.5 + 0.25 * y.unsqueeze(1)) * time)
    pitch = 12 + 2 * torch.randn(samples, 1) + 6 * shape
    bands = torch.exp(-((torch.arange(24) - pitch.unsqueeze(2)) / 1.5).square())
    x = bands + 0.2 * torch.randn(samples, frames, 24)
    return split((x - x.mean()) / x.std(), y)


@healthy(steps=180, bound=0.5)
def warm_up_before_an_lstm() -> Program:
    x, y, x_val, y_val = _melodies()

    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(24, 32, 3, padding=1)
            self.lstm = nn.LSTM(32, 32, batch_first=True, bidirectional=True)
            self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(64, 6))

        def forward(self, x: Tensor) -> Tensor:
            frames = F.gelu(self.conv(x.transpose(1, 2))).transpose(1, 2)
            out: Tensor = self.head(self.lstm(frames)[0].mean(1))
            return out

    model = Words()
    optimizer = AdamW(model.parameters(), lr=4e-3)
    scheduler = LambdaLR(optimizer, lambda i: min(1.0, (i + 1) / 80))
    loader = batches(x, y, 32)

    def step(i: int) -> None:
        model.train()
        spectra, words = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(spectra), words).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if i % 20 == 0:
            model.eval()
            with torch.no_grad():
                F.cross_entropy(model(x_val), y_val)

    return Program(model, optimizer, step, mean_loss(model, x_val, y_val, F.cross_entropy))


@healthy(steps=250, bound=0.1)
def claps_in_four_frames_of_a_hundred() -> Program:
    """A rare class, found because each of its frames counts eight times."""
    loud = (torch.rand(600, 40) < 0.04).float()
    clap = torch.randn(12)
    x = torch.randn(600, 40, 12) + 1.6 * loud.unsqueeze(2) * clap
    model = nn.Sequential(nn.Conv1d(12, 24, 3, padding=1), nn.ReLU(), nn.Conv1d(24, 1, 1))
    optimizer = Adam(model.parameters(), lr=5e-3)
    criterion = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(8.0))
    loader = batches(x, loud, 16)

    def step(i: int) -> None:
        frames, events = next(loader)
        loss = criterion(model(frames.transpose(1, 2)).squeeze(1), events)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        """Mean of the shares of claps missed and of silences taken for claps."""
        with torch.no_grad():
            heard = model(x.transpose(1, 2)).squeeze(1) > 0
            return float((~heard)[loud == 1].float().mean() + heard[loud == 0].float().mean()) / 2

    return Program(model, optimizer, step, loss)


@healthy(steps=160, bound=0.2)
def bands_and_frames_masked() -> Program:
    """A third of each spectrum is blotted out in training, which stays harder than validation."""
    x, y, x_val, y_val = _melodies(1000)
    model = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(12, 24, 3, padding=1, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d((5, 6)),
        nn.Flatten(),
        nn.Linear(24 * 30, 6),
    )
    optimizer = SGD(model.parameters(), lr=0.03, momentum=0.9, weight_decay=5e-4)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.05)
    loader = batches(x, y, 25)

    def masked(spectra: Tensor) -> Tensor:
        spectra = spectra.clone()
        for spectrum in spectra:
            band, frame = int(torch.randint(20, ())), int(torch.randint(16, ()))
            spectrum[:, band : band + 4] = 0
            spectrum[frame : frame + 4] = 0
        return spectra

    def step(i: int) -> None:
        model.train()
        spectra, words = next(loader)
        optimizer.zero_grad()
        criterion(model(masked(spectra).unsqueeze(1)), words).backward()
        optimizer.step()
        if i % 32 == 0:
            model.eval()
            with torch.no_grad():
                criterion(model(x_val.unsqueeze(1)), y_val)

    return Program(model, optimizer, step, mean_loss(model, x_val.unsqueeze(1), y_val, F.cross_entropy))


@healthy(steps=130, bound=2.1)
def samples_quantised_and_told_one_by_one() -> Program:
    """Gated convolutions, each with its skip; noise leaves several of the 32 levels open."""
    time = torch.arange(65)
    tone = torch.sin(0.35 * (0.8 + 0.4 * torch.rand(800, 1)) * time + 6.3 * torch.rand(800, 1))
    levels = (16 + 11 * tone + 1.2 * torch.randn(800, 65)).round().long().clamp(0, 31)

    class Gated(nn.Module):
        def __init__(self, width: int, dilation: int) -> None:
            super().__init__()
            self.pad = dilation
            self.both = nn.Conv1d(width, 2 * width, 2, dilation=dilation)
            self.out = nn.Conv1d(width, width, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            value, gate = self.both(F.pad(x, (self.pad, 0))).chunk(2, 1)
            skip = self.out(value.tanh() * gate.sigmoid())
            return x + skip, skip

    class WaveNet(nn.Module):
        def __init__(self, width: int = 24) -> None:
            super().__init__()
            self.embed = nn.Embedding(32, width)
            self.layers = nn.ModuleList(Gated(width, dilation) for dilation in (1, 2, 4, 8))
            self.last = nn.Conv1d(width, 32, 1)

        def forward(self, levels: Tensor) -> Tensor:
            x, total = self.embed(levels).transpose(1, 2), torch.zeros(())
            for layer in self.layers:
                x, skip = layer(x)
                total = total + skip
            out: Tensor = self.last(F.relu(total))
            return out

    model = WaveNet()
    optimizer = Adam(model.parameters(), lr=5e-3)
    loader = batches(levels, levels, 16)

    def step(i: int) -> None:
        chosen, _ = next(loader)
        loss = F.cross_entropy(model(chosen[:, :-1]), chosen[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, levels[:200, :-1], levels[:200, 1:], F.cross_entropy))


@healthy(steps=250, bound=1.5)
def future_told_from_other_futures() -> Program:
    """Of the ends of 32 sounds, which is that of this one? The first loss is the logarithm of 32."""
    time = torch.arange(64)
    tones = torch.sin((0.2 + 0.8 * torch.rand(1500, 1)) * time + 6.3 * torch.rand(1500, 1))
    sounds = 1.4 * tones + 0.1 * torch.randn(1500, 64)

    class Predictive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.past = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))
            self.future = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 32))

        def forward(self, sounds: Tensor) -> Tensor:
            left, right = self.past(sounds[:, :32]), self.future(sounds[:, 48:])
            logits = F.normalize(left, dim=1) @ F.normalize(right, dim=1).T / 0.1
            return F.cross_entropy(logits, torch.arange(len(sounds)))

    model = Predictive()
    optimizer = AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> None:
        loss = model(sounds[torch.randint(len(sounds), (32,))])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return sum(float(model(sounds[i : i + 32])) for i in range(0, 320, 32)) / 10

    return Program(model, optimizer, step, loss)


@healthy(steps=250, bound=0.1)
def two_voices_in_either_order() -> Program:
    """The loss is that of the better order; masks are sigmoids, and none of them is a class."""
    first = torch.sin((0.15 + 0.1 * torch.rand(800, 1)) * torch.arange(48) + 6.3 * torch.rand(800, 1))
    second = torch.sin((0.9 + 0.3 * torch.rand(800, 1)) * torch.arange(48) + 6.3 * torch.rand(800, 1))
    voices = 1.4 * torch.stack((first, second), 1)
    turn = torch.rand(800, 1, 1) < 0.5
    voices = torch.where(turn, voices, voices.flip(1))

    class Separator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode = nn.Conv1d(1, 32, 12, stride=4, padding=4)
            self.mask = nn.Sequential(
                nn.Conv1d(32, 48, 3, padding=1), nn.PReLU(), nn.Conv1d(48, 64, 3, padding=1), nn.Sigmoid()
            )
            self.decode = nn.ConvTranspose1d(32, 1, 12, stride=4, padding=4)

        def forward(self, mixed: Tensor) -> Tensor:
            code = self.encode(mixed)
            masked = self.mask(code).unflatten(1, (2, 32)) * code.unsqueeze(1)
            out: Tensor = self.decode(masked.flatten(0, 1)).view(len(mixed), 2, -1)
            return out

    model = Separator()
    optimizer = Adam(model.parameters(), lr=5e-3)
    loader = batches(voices, voices, 32)

    def best_order(answer: Tensor, voices: Tensor) -> Tensor:
        orders = torch.stack([(answer - voices).square().mean((1, 2)), (answer - voices.flip(1)).square().mean((1, 2))])
        return orders.min(0).values.mean()

    def step(i: int) -> None:
        chosen, _ = next(loader)
        loss = best_order(model(chosen.sum(1, keepdim=True)), chosen)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, voices.sum(1, keepdim=True), voices, best_order))

"""What goes wrong between the data and the model: inputs that say nothing, answers that do not look at them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam

from tests.clinic import data, models
from tests.clinic.case import Program, sick
from tests.clinic.loops import cross_entropy, errors, mean_loss, supervised


@sick("constant-input", steps=200, by=20, bound=0.5, layers=("0",))
def pixels_cast_to_integers_after_scaling(fault: bool) -> Program:
    model = models.mlp(64, 64, 10)
    task = data.digits(raw=True)
    pixels = (task.x / 16.01).to(torch.uint8 if fault else torch.float32).float()  # all 0 as integers
    good = task._replace(x=pixels)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    return supervised(model, optimizer, good, nn.CrossEntropyLoss(), errors(model, task.x / 16.01, task.y))


@sick("constant-input", steps=200, by=20, bound=0.5, layers=("0",))
def loader_returns_the_first_image(fault: bool) -> Program:
    model = models.cnn()
    task = data.digits(1, 8, 8)
    images = task.x[:1].expand_as(task.x) if fault else task.x  # __getitem__ ignores its index for the images
    optimizer = Adam(model.parameters(), lr=2e-3)
    return supervised(
        model, optimizer, task._replace(x=images), lambda p, t: F.cross_entropy(p, t), errors(model, task.x, task.y)
    )


@sick("constant-input", steps=300, by=30, bound=0.6, layers=("recurrent", "embed"))
def tokens_all_unknown(fault: bool) -> Program:
    model = models.Recurrent(nn.GRU, 13, 32, 6, tokens=True)
    task = data.recall(length=8)
    known = torch.full_like(task.x, 12) if fault else task.x  # a vocabulary of another data set: every token is <unk>
    optimizer = Adam(model.parameters(), lr=5e-3)
    return supervised(
        model, optimizer, task._replace(x=known), nn.CrossEntropyLoss(), mean_loss(model, task.x, task.y, cross_entropy)
    )


@sick("input-not-used", "constant-output", steps=200, by=20, bound=0.5)
def padding_mask_inverted(fault: bool) -> Program:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(13, 32, padding_idx=12)
            block = nn.TransformerEncoderLayer(32, 4, 64, 0.1, batch_first=True, norm_first=True)
            self.encoder = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
            self.head = nn.Linear(32, 6)

        def forward(self, tokens: Tensor) -> Tensor:
            padding = tokens == 12
            mask = ~padding if fault else padding
            x = self.encoder(self.embed(tokens), src_key_padding_mask=mask)
            kept = (~mask).float().unsqueeze(2)
            out: Tensor = self.head((x * kept).sum(1) / kept.sum(1))
            return out

    model = Classifier()
    task = data.recall(length=8)
    task = task._replace(x=torch.cat((task.x, torch.full((len(task.x), 3), 12)), 1))
    optimizer = Adam(model.parameters(), lr=3e-3)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), mean_loss(model, task.x, task.y, cross_entropy))


@sick("input-not-used", "constant-output", "no-gradient", steps=250, by=50, bound=0.5)
def answers_from_the_initial_state(fault: bool) -> Program:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent = nn.GRU(8, 48, batch_first=True)
            self.start = nn.Parameter(torch.zeros(1, 1, 48))
            self.head = nn.Linear(48, 10)

        def forward(self, x: Tensor) -> Tensor:
            start = self.start.expand(1, len(x), 48).contiguous()
            _, last = self.recurrent(x, start)
            out: Tensor = self.head(start[0] if fault else last[0])
            return out

    model = Reader()
    task = data.digits(8, 8)
    optimizer = Adam(model.parameters(), lr=5e-3)
    return supervised(model, optimizer, task, lambda p, t: F.cross_entropy(p, t), errors(model, task.x, task.y))


@sick("input-not-used", "constant-output", "no-gradient", steps=250, by=25, bound=0.6)
def decoder_never_sees_its_context(fault: bool) -> Program:
    class Forecaster(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.LSTM(1, 24, batch_first=True)
            self.context = nn.Linear(24, 24)
            self.decoder = models.mlp(24, 24, 1)

        def forward(self, x: Tensor) -> Tensor:
            states, _ = self.encoder(x)
            context = torch.tanh(self.context(states[:, -1]))
            if fault:
                context = torch.zeros_like(context)  # left over from a test
            out: Tensor = self.decoder(context)
            return out

    model = Forecaster()
    task = data.waves()
    optimizer = Adam(model.parameters(), lr=5e-3)
    return supervised(model, optimizer, task, nn.MSELoss(), mean_loss(model, task.x, task.y, F.mse_loss))

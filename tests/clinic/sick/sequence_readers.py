"""Recurrent networks and transformers that read a sequence and do not learn what it says."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, RMSprop

from tests.clinic.case import Program, sick
from tests.clinic.data import Data, alphabet, batches, digits, recall, split, text, waves
from tests.clinic.loops import cross_entropy, errors, mean_loss, supervised
from tests.clinic.models import Encoder, Recurrent, RecurrentLanguageModel


@sick(
    "mixed-samples",
    "not-learning",
    steps=250,
    by=170,
    bound=0.4,
)
def view_in_place_of_transpose(fault: bool) -> Program:
    """The LSTM wants [length, n, features]; view() gives that shape, and rows of one image to several."""
    task = digits(8, 8)

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(8, 48)
            self.fc = nn.Linear(48, 10)

        def forward(self, x: Tensor) -> Tensor:
            n, length, features = x.shape
            rows = x.reshape(length, n, features) if fault else x.transpose(0, 1)
            states, _ = self.lstm(rows)
            out: Tensor = self.fc(states[-1])
            return out

    model = Reader()
    optimizer = Adam(model.parameters(), lr=5e-3)
    return supervised(model, optimizer, task, nn.CrossEntropyLoss(), errors(model, task.x, task.y))


@sick("vanishing-gradient", steps=250, by=180, bound=0.4)
def first_word_through_a_plain_rnn(fault: bool) -> Program:
    """What matters is said at the start, forty words before the answer is asked for."""
    task = recall(1200, 40)

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(12, 24)
            self.rnn = nn.RNN(24, 32, batch_first=True)
            self.fc = nn.Linear(32, 6)

        def forward(self, words: Tensor) -> Tensor:
            states, _ = self.rnn(self.embed(words))
            out: Tensor = self.fc(states[:, -1] if fault else states.mean(1) + states.amax(1))
            return out

    model = Reader()
    optimizer = Adam(model.parameters(), lr=3e-3)
    return supervised(model, optimizer, task, F.cross_entropy, errors(model, task.x, task.y))


@sick(
    "poor-initialization",
    "saturated-units",
    "exploding-gradient",
    "unexpected-initial-loss",
    steps=200,
    by=120,
    bound=0.35,
)
def normal_init_for_all_parameters_of_a_gru(fault: bool) -> Program:
    """A loop over all parameters, the recurrent ones and the biases among them, that draws from normal(0, 1)."""
    task = waves(1000, 16)
    model = Recurrent(nn.GRU, 1, 48, 1)
    if fault:
        for parameter in model.parameters():
            nn.init.normal_(parameter)
    optimizer = RMSprop(model.parameters(), lr=2e-3)
    return supervised(model, optimizer, task, nn.MSELoss(), mean_loss(model, task.x, task.y, F.mse_loss), validate=True)


@sick("learning-rate-too-small", steps=150, by=100, bound=2.75)
def characters_with_sgd_at_the_default_of_adam(fault: bool) -> Program:
    """A rate of 0.001, as everywhere; but this is plain SGD."""
    task = text(16)
    vocabulary = len(alphabet())
    model = RecurrentLanguageModel(nn.GRU, vocabulary, 48)
    optimizer = SGD(model.parameters(), lr=1e-3 if fault else 0.8)
    return supervised(model, optimizer, task, cross_entropy, mean_loss(model, task.x, task.y, cross_entropy))


@sick("learning-rate-too-large", "dead-units", steps=150, by=100, bound=0.25)
def encoder_at_a_rate_for_perceptrons(fault: bool) -> Program:
    task = digits(8, 8)
    model = Encoder(8, 10, 8, width=32, depth=3, dropout=0.0, norm_first=False)
    optimizer = AdamW(model.parameters(), lr=3e-2 if fault else 2e-3)
    loader = batches(task.x, task.y, 32)
    criterion = nn.CrossEntropyLoss()

    def step(i: int) -> None:
        rows, labels = next(loader)
        optimizer.zero_grad()
        criterion(model(rows), labels).backward()
        optimizer.step()

    return Program(model, optimizer, step, errors(model, task.x, task.y))


def _reviews(samples: int = 1000, length: int = 16, vocabulary: int = 60) -> Data:
    """Words [n, length], and whether more of them are kind than unkind."""
    words = torch.randint(vocabulary, (samples, length))
    kind = ((words < 15).sum(1) - ((words >= 15) & (words < 30)).sum(1)).float()
    return split(words, (kind + 0.1 * torch.randn(samples) > 0).long())


@sick("constant-output", "mixed-samples", steps=200, by=100, bound=0.2)
def log_softmax_over_dimension_zero(fault: bool) -> Program:
    """The example was for one sentence; with a batch, dimension 0 is that of the sentences."""
    task = _reviews()

    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(60, 24)
            self.hidden = nn.Linear(24, 24)
            self.out = nn.Linear(24, 2)

        def forward(self, words: Tensor) -> Tensor:
            hidden = F.relu(self.hidden(self.embed(words).mean(1)))
            return F.log_softmax(self.out(hidden), dim=0 if fault else 1)

    model = Bag()
    optimizer = Adam(model.parameters(), lr=1e-2)

    def loss() -> float:
        """Share of wrong answers, to one sentence after the other."""
        with torch.no_grad():
            answers = torch.cat([model(sentence.unsqueeze(0)) for sentence in task.x_val]).argmax(1)
            return float((answers != task.y_val).float().mean())

    return supervised(model, optimizer, task, nn.NLLLoss(), loss)


@sick(
    "exploding-gradient",
    "learning-rate-too-large",
    "poor-initialization",
    "diverging-loss",
    steps=200,
    by=150,
    bound=0.3,
)
def rnn_with_momentum_and_no_clipping(fault: bool) -> Program:
    """A recurrent matrix that starts at a gain of one and a half, and nothing that bounds a step."""
    task = waves()
    model = Recurrent(nn.RNN, 1, 48, 1)
    nn.init.orthogonal_(model.recurrent.weight_hh_l0, gain=1.5 if fault else 1.0)
    optimizer = SGD(model.parameters(), lr=0.1 if fault else 0.02, momentum=0.9)
    loader = batches(task.x, task.y, 32)

    def step(i: int) -> None:
        series, following = next(loader)
        loss = F.mse_loss(model(series), following)
        optimizer.zero_grad()
        loss.backward()
        if not fault:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return Program(model, optimizer, step, mean_loss(model, task.x, task.y, F.mse_loss))


@sick("weights-not-updated", steps=200, by=60, layers=("embed", "gru"), bound=0.3)
def rate_of_zero_for_the_group_of_the_encoder(fault: bool) -> Program:
    """Two groups of parameters; the rate of the first was 0 for a trial and was left so."""
    words = torch.randint(40, (1000, 12))
    y = (words < 20).sum(1).clamp(3, 9) - 3

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(40, 16)
            self.gru = nn.GRU(16, 24, batch_first=True)
            self.fc = nn.Linear(24, 7)

        def forward(self, words: Tensor) -> Tensor:
            out: Tensor = self.fc(self.gru(self.embed(words))[0].mean(1))
            return out

    model = Reader()
    lower = [*model.embed.parameters(), *model.gru.parameters()]
    optimizer = Adam(
        [{"params": lower, "lr": 0.0 if fault else 1e-2}, {"params": model.fc.parameters(), "lr": 1e-2}], lr=1e-2
    )
    loader = batches(words, y, 50)

    def step(i: int) -> None:
        sentences, labels = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(sentences), labels).backward()
        optimizer.step()

    return Program(model, optimizer, step, errors(model, words, y))

"""Tokens to guess and to translate: masks, encoders and decoders, padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adadelta, Adam

from tests.clinic.case import Program, sick

WORDS = 12
MASK = START = WORDS


def _chains(samples: int, length: int = 16) -> Tensor:
    """Sentences [n, length]: after each word mostly comes the one that follows it in a fixed order."""
    order = torch.randperm(WORDS)
    tokens = [torch.randint(WORDS, (samples,))]
    for _ in range(length - 1):
        tokens.append(torch.where(torch.rand(samples) < 0.9, order[tokens[-1]], torch.randint(WORDS, (samples,))))
    return torch.stack(tokens, 1)


@sick("input-not-used", "no-gradient", steps=110, by=50, bound=1.6)
def positions_in_place_of_words(fault: bool) -> Program:
    """``x = positions`` where ``x = x + positions`` was meant: all sentences are the same to the network."""

    class MaskedLanguageModel(nn.Module):
        def __init__(self, width: int = 24) -> None:
            super().__init__()
            self.words = nn.Embedding(WORDS + 1, width)
            self.positions = nn.Embedding(16, width)
            self.mix = nn.GRU(width, width, batch_first=True, bidirectional=True)
            self.norm = nn.LayerNorm(2 * width)
            self.decoder = nn.Linear(2 * width, WORDS)

        def forward(self, tokens: Tensor) -> Tensor:
            places = self.positions(torch.arange(tokens.shape[1])).expand(len(tokens), -1, -1)
            words = self.words(tokens)
            x = places if fault else words + places
            out: Tensor = self.decoder(self.norm(self.mix(x)[0]))
            return out

    sentences = _chains(1000)
    model = MaskedLanguageModel()
    optimizer = Adam(model.parameters(), lr=6e-3)

    def masked_loss(tokens: Tensor) -> Tensor:
        hidden = torch.rand(tokens.shape) < 0.15
        return F.cross_entropy(model(tokens.masked_fill(hidden, MASK))[hidden], tokens[hidden])

    def step(i: int) -> None:
        optimizer.zero_grad()
        masked_loss(sentences[torch.randint(len(sentences), (32,))]).backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return float(masked_loss(sentences))

    return Program(model, optimizer, step, loss)


class _Translator(nn.Module):
    """A GRU reads the sentence, another one writes it word by word in another language."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.source = nn.Embedding(WORDS, width)
        self.encoder = nn.GRU(width, width, batch_first=True)
        self.target = nn.Embedding(WORDS + 1, width)
        self.decoder = nn.GRU(width, width, batch_first=True)
        self.out = nn.Linear(width, WORDS)

    def forward(self, source: Tensor, fed: Tensor) -> Tensor:
        _, state = self.encoder(self.source(source))
        out: Tensor = self.out(self.decoder(self.target(fed), state)[0])
        return out

    def write(self, source: Tensor, length: int) -> Tensor:
        """Its own answers are fed back."""
        _, state = self.encoder(self.source(source))
        word, logits = torch.full((len(source), 1), START), []
        for _ in range(length):
            hidden, state = self.decoder(self.target(word), state)
            logits.append(self.out(hidden))
            word = logits[-1].argmax(2)
        return torch.cat(logits, 1)


def _translations(samples: int, length: int = 4) -> tuple[Tensor, Tensor]:
    source = _chains(samples, length)
    return source, torch.randperm(WORDS)[source]


def _shifted(target: Tensor) -> Tensor:
    return F.pad(target[:, :-1], (1, 0), value=START)


def _loss(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


def _teacher_forced(model: _Translator, source: Tensor, target: Tensor) -> float:
    with torch.no_grad():
        return float(_loss(model(source, _shifted(target)), target))


@sick("learning-rate-too-small", steps=200, by=100, bound=1.8)
def gradients_clipped_at_a_thousandth(fault: bool) -> Program:
    """The norm of the gradient is held so low that SGD hardly moves."""
    source, target = _translations(800)
    model = _Translator()
    optimizer = SGD(model.parameters(), lr=0.5, momentum=0.9)
    limit = 1e-3 if fault else 1.0

    def step(i: int) -> None:
        chosen = torch.randint(len(source), (32,))
        optimizer.zero_grad()
        _loss(model(source[chosen], _shifted(target[chosen])), target[chosen]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), limit)
        optimizer.step()

    return Program(model, optimizer, step, lambda: _teacher_forced(model, source, target))


@sick("stale-gradient", steps=160, by=40, bound=1.2)
def decoder_whose_gradients_are_never_zeroed(fault: bool) -> Program:
    """Two optimizers, as in the tutorial, and ``encoder_optimizer.zero_grad()`` copied once."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(WORDS, 40)
            self.gru = nn.GRU(40, 40, batch_first=True)

        def forward(self, source: Tensor) -> Tensor:
            state: Tensor = self.gru(self.embedding(source))[1]
            return state

    class DecoderRNN(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(WORDS + 1, 40)
            self.gru = nn.GRU(40, 40, batch_first=True)
            self.out = nn.Linear(40, WORDS)

        def forward(self, fed: Tensor, state: Tensor) -> Tensor:
            out: Tensor = self.out(self.gru(F.relu(self.embedding(fed)), state)[0])
            return out

    source, target = _translations(800)
    encoder, decoder = Encoder(), DecoderRNN()
    both = nn.ModuleDict({"encoder": encoder, "decoder": decoder})
    encoder_optimizer, decoder_optimizer = (SGD(net.parameters(), lr=0.1, momentum=0.9) for net in (encoder, decoder))
    criterion = nn.NLLLoss()

    def loss_of(chosen: Tensor) -> Tensor:
        logits = decoder(_shifted(target[chosen]), encoder(source[chosen]))
        loss: Tensor = criterion(F.log_softmax(logits, dim=2).flatten(0, 1), target[chosen].flatten())
        return loss

    def step(i: int) -> None:
        encoder_optimizer.zero_grad()
        if not fault:
            decoder_optimizer.zero_grad()
        loss_of(torch.randint(len(source), (32,))).backward()
        encoder_optimizer.step()
        decoder_optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return float(loss_of(torch.arange(len(source))))

    return Program(both, decoder_optimizer, step, loss)


@sick(
    "train-val-mismatch",
    steps=150,
    by=75,
    bound=0.2,
    miss="overfitting is said: sentences repeat by themselves, and nobody knows how often one was seen",
)
def decoder_fed_the_word_it_is_to_say(fault: bool) -> Program:
    """Teacher forcing without the shift: in training the answer is in the input, in validation it is not."""
    source, target = _translations(2200)
    model = _Translator(40)
    optimizer = Adam(model.parameters(), lr=5e-3)

    def step(i: int) -> None:
        chosen = torch.randint(2000, (32,))
        fed = target[chosen] if fault else _shifted(target[chosen])
        optimizer.zero_grad()
        _loss(model(source[chosen], fed), target[chosen]).backward()
        optimizer.step()
        if i % 20 == 0:
            model.eval()
            with torch.no_grad():
                _loss(model.write(source[2000:], 4), target[2000:])
            model.train()

    def loss() -> float:
        with torch.no_grad():
            return float((model.write(source[:2000], 4).argmax(2) != target[:2000]).float().mean())

    return Program(model, optimizer, step, loss)


@sick("learning-rate-too-small", steps=200, by=100, bound=2.0)
def adadelta_at_a_rate_of_adam(fault: bool) -> Program:
    """Adadelta brings its own step length, and its rate is 1; with 0.001 it stands still."""
    sentences = _chains(1000)
    model = nn.Sequential(nn.Embedding(WORDS, 16), nn.Flatten(), nn.Linear(8 * 16, 64), nn.ReLU(), nn.Linear(64, WORDS))
    optimizer = Adadelta(model.parameters(), lr=1e-3 if fault else 1.0)
    words, following = sentences[:, :8], sentences[:, 8]

    def step(i: int) -> None:
        chosen = torch.randint(len(words), (32,))
        loss = F.cross_entropy(model(words[chosen]), following[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss() -> float:
        with torch.no_grad():
            return float(F.cross_entropy(model(words), following))

    return Program(model, optimizer, step, loss)

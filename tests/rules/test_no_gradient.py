"""no-gradient on real runs."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netdoctor
from netdoctor.findings import Evidence, Severity
from netdoctor.history import History
from netdoctor.rules.no_gradient import fires, no_gradient, quiet
from tests.rules.training import findings_of

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


class Model(nn.Module):
    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16))
        self.pooler = nn.Linear(16, 16)
        self.head = nn.Linear(16, 1 if fault == "softmax" else 2)
        self.fault = fault

    def forward(self, x: Tensor) -> Tensor:
        h = self.encoder(x)
        if self.fault == "detach":
            h = h.detach()
        if self.fault == "pooler":
            self.pooler(h)
        else:
            h = h + self.pooler(h)
        out = self.head(h.relu())
        return torch.softmax(out, 1) if self.fault == "softmax" else out


def train(model: nn.Module, steps: int = 10) -> History:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with netdoctor.watch(model, reporters=[], every=1) as monitor:
        for _ in range(steps):
            out = model(X)
            loss = F.cross_entropy(out, Y) if out.shape[1] > 1 else F.binary_cross_entropy(out[:, 0], Y.float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        monitor.diagnose()
        return monitor.history


def found(history: History, least: Severity = Severity.WARNING) -> list[Evidence]:
    answers = [answer for answer in no_gradient(history) if isinstance(answer, Evidence)]
    return [answer for answer in answers if (answer.severity or no_gradient.severity) >= least]


@pytest.mark.parametrize("history", fires())
def test_fires(history: History) -> None:
    assert found(history)


@pytest.mark.parametrize("history", quiet())
def test_quiet(history: History) -> None:
    assert not found(history)


def test_detached_encoder_is_found_within_five_steps_and_can_be_frozen() -> None:
    model = Model("detach")
    (evidence,) = found(train(model, 5))
    assert evidence.layers == ("encoder.0", "encoder.2")
    assert "Connect encoder.2 with pooler" in evidence.remedies[0].action
    assert not evidence.remedies[1].applicable  # only who wrote it knows whether that was meant
    exec(evidence.remedies[1].code, {"model": model})
    assert not model.encoder[0].weight.requires_grad
    assert not found(train(model, 5))


def test_output_that_nobody_uses_is_a_note() -> None:
    history = train(Model("pooler"), 25)
    assert not found(history)
    (note,) = found(history, Severity.NOTE)
    assert note.layers == ("pooler",)


def test_softmax_over_one_unit() -> None:
    (evidence,) = found(train(Model("softmax")))
    assert "softmax over one unit" in evidence.message
    assert evidence.layers == ("head",)


def test_healthy_and_two_optimizers() -> None:
    assert not found(train(Model(), 25), Severity.NOTE)
    model = nn.ModuleDict({"generator": nn.Linear(4, 8), "critic": nn.Linear(8, 1)})
    optimizers = {name: torch.optim.SGD(part.parameters(), lr=0.1) for name, part in model.items()}
    with netdoctor.watch(model, reporters=[], every=1) as monitor:
        for _ in range(25):
            for name, optimizer in optimizers.items():
                fake = model["generator"](X[:, :4])
                fake = fake.detach() if name == "critic" else fake
                for other in optimizers.values():
                    other.zero_grad()
                F.softplus(model["critic"](fake)).mean().backward()
                optimizer.step()
        monitor.diagnose()
        assert not found(monitor.history, Severity.NOTE)


@pytest.mark.parametrize(
    "anew", [lambda loss: torch.tensor(loss.item(), requires_grad=True), lambda loss: loss.detach().requires_grad_()]
)
def test_a_loss_made_anew_is_named_and_one_among_others_is_not(anew: Callable[[Tensor], Tensor]) -> None:
    for always in (True, False):
        model = Model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with netdoctor.watch(model, reporters=[], every=1) as monitor:
            for i in range(10):
                loss = F.cross_entropy(model(X), Y)
                optimizer.zero_grad()
                (anew(loss) if always or i % 2 else loss).backward()
                optimizer.step()
            answers = found(monitor.history)
        assert [answer.severity for answer in answers] == [Severity.ERROR] * always
        assert monitor.history.first("rootless_loss") == {"": 1.0}


@pytest.mark.parametrize("cut", [True, False])
def test_a_second_tower_that_is_detached_is_named(cut: bool) -> None:
    """That of the words: an embedding reads an input that no other layer made."""

    class Towers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image, self.words, self.text = nn.Linear(6, 8), nn.EmbeddingBag(20, 5), nn.Linear(5, 8)

        def forward(self, image: Tensor, words: Tensor) -> Tensor:
            text = self.text(self.words(words))
            scores: Tensor = self.image(image) @ (text.detach() if cut else text).T
            return scores

    torch.manual_seed(0)
    model = Towers()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def loss(i: int) -> Tensor:
        return F.cross_entropy(model(torch.randn(8, 6), torch.randint(20, (8, 3))), torch.arange(8))

    found = findings_of(no_gradient, model, optimizer, loss, 25)
    assert bool(found) is cut
    for each in found:
        assert each.layers == ("words", "text")
        assert each.severity == Severity.WARNING

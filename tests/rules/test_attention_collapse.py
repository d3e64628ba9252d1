"""attention-collapse on real runs: attention that picks one key at random, and attention that learned to."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netdoctor
from netdoctor.findings import Finding
from netdoctor.rules.attention_collapse import attention_collapse
from netdoctor.rules.logit_growth import logit_growth


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


class Reader(nn.Module):
    """Says which of eight tokens stands at the place that the first token tells."""

    def __init__(self, scale: float | None = None, fused: bool = False) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(8, 32), nn.Embedding(8, 32)
        self.query, self.key, self.value = (nn.Linear(32, 32) for _ in range(3))
        self.head = nn.Linear(32, 8)
        self.scale, self.fused = scale or 1 / math.sqrt(32), fused

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.places.weight
        query, key, value = self.query(x[:, :1]), self.key(x), self.value(x)
        if self.fused:
            query, key, value = query[:, None], key[:, None], value[:, None]
            mixed = F.scaled_dot_product_attention(query, key, value, scale=self.scale)[:, 0]
        else:
            mixed = (self.scale * query @ key.transpose(1, 2)).softmax(2) @ value
        out: Tensor = self.head(mixed[:, 0])
        return out


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> tuple[list[Finding], float]:
    found: list[Finding] = []
    losses = []
    with netdoctor.watch(model, reporters=[], rules=[logit_growth, attention_collapse], every=3) as monitor:
        for step in range(1, steps + 1):
            tokens = torch.randint(8, (64, 8))
            loss = F.cross_entropy(model(tokens), tokens.gather(1, tokens[:, :1])[:, 0])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            if step in (1, 3) or step % 10 == 0:
                found += monitor.diagnose().findings
    return found, sum(losses[-10:]) / 10


def large(model: Reader, factor: float = 12.0) -> Reader:
    for layer in (model.query, model.key):
        layer.weight.data.mul_(factor)
    return model


@pytest.mark.parametrize("fused", [True, False])
def test_queries_and_keys_too_large_are_found_at_once_and_cured(fused: bool):
    model = large(Reader(fused=fused))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    found, _ = train(model, optimizer, 1)
    (first,) = found
    assert first.rule == "attention-collapse"
    assert first.layers == ("query",)
    first.remedies[0].apply(model, optimizer)
    found, loss = train(model, optimizer, 400)
    assert not found
    assert loss < 1.0


class Scored(Reader):
    """The same with a module for the softmax."""

    def __init__(self, scale: float) -> None:
        super().__init__(scale)
        self.softmax = nn.Softmax(dim=2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.places.weight
        scores = self.scale * self.query(x[:, :1]) @ self.key(x).transpose(1, 2)
        out: Tensor = self.head((self.softmax(scores) @ self.value(x))[:, 0])
        return out


@pytest.mark.parametrize(("reader", "module"), [(Reader, "query"), (Scored, "softmax")])
def test_scores_that_lack_their_divisor_are_divided(reader: type[Reader], module: str) -> None:
    sick = reader(scale=40.0)
    (finding,) = train(sick, torch.optim.SGD(sick.parameters(), 0.0), 1)[0]
    remedy = finding.remedies[0] if module == "query" else next(each for each in finding.remedies if each.applicable)
    assert remedy.action.startswith("Divide")
    assert module in remedy.code
    model = reader(scale=40.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    treatment = remedy.apply(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    found, loss = train(model, torch.optim.Adam(model.parameters(), 3e-3), 400)
    assert not found
    assert loss < 1.0
    treatment.undo()


def test_where_the_weights_are_too_large_they_are_scaled() -> None:
    model = large(Reader())
    (found,) = train(model, torch.optim.SGD(model.parameters(), 0.0), 1)[0]
    assert not any(remedy.action.startswith("Divide") for remedy in found.remedies)


def test_the_code_does_what_apply_does():
    model, twin = large(Reader()), large(Reader())
    twin.load_state_dict(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    (found,) = train(model, optimizer, 1)[0]
    found.remedies[0].apply(model, optimizer)
    exec(found.remedies[0].code, {"model": twin, "nn": nn, "torch": torch})
    for applied, written in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(applied, written, rtol=1e-3, atol=1e-6)
    assert model.key.weight.std() < 0.3  # keys and queries share the factor


@pytest.mark.parametrize("fused", [True, False])
def test_attention_that_learned_to_pick_is_quiet(fused: bool):
    model = Reader(fused=fused)
    found, loss = train(model, torch.optim.Adam(model.parameters(), 3e-3), 400)
    assert loss < 1.0
    assert not found


def test_attention_that_does_not_learn_for_another_reason_is_quiet():
    model = Reader()
    assert not train(model, torch.optim.Adam(model.parameters(), 1e-6), 120)[0]


def test_queries_and_keys_that_run_away_are_logit_growth():
    model = Reader()
    own = [*model.query.parameters(), *model.key.parameters()]
    others = [p for p in model.parameters() if all(p is not each for each in own)]
    optimizer = torch.optim.Adam([{"params": own, "lr": 0.5}, {"params": others, "lr": 1e-3}])
    found, _ = train(model, optimizer, 60)
    assert found[-1].rule == "logit-growth"
    assert {symptom.rule for each in found for symptom in each.symptoms} <= {"attention-collapse"}
    assert "param_groups[0]" in found[-1].remedies[0].code
    assert "param_groups[1]" not in found[-1].remedies[0].code
    before = optimizer.param_groups[1]["lr"]
    found[-1].remedies[0].apply(model, optimizer)
    assert optimizer.param_groups[0]["lr"] < 0.1
    assert optimizer.param_groups[1]["lr"] == before


class Pooled(nn.Module):
    """Says which of six words stands among noise; one query, or a layer, gives a score to each place."""

    def __init__(self, layer: bool, temperature: float) -> None:
        super().__init__()
        self.frames = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 24))
        if layer:
            self.score = nn.Linear(24, 1)
        else:
            self.query = nn.Parameter(torch.randn(24))
        self.head = nn.Linear(24, 6)
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        frames = self.frames(x)
        scores = self.score(frames)[..., 0] if hasattr(self, "score") else frames @ self.query
        out: Tensor = self.head(((scores / self.temperature).softmax(1)[..., None] * frames).sum(1))
        return out


@pytest.mark.parametrize("layer", [True, False])
@pytest.mark.parametrize(("temperature", "sick"), [(0.002, True), (1.0, False)])
def test_pooling(layer: bool, temperature: float, sick: bool) -> None:
    words, model = 2 * torch.randn(6, 16), Pooled(layer, temperature)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    with netdoctor.watch(model, reporters=[], rules=[logit_growth, attention_collapse], every=2) as monitor:
        for step in range(40):
            y, x = torch.randint(6, (64,)), torch.randn(64, 20, 16)
            x[torch.arange(64), torch.randint(20, (64,))] += words[y]
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            if step == 3:
                found = monitor.diagnose().findings
        later = monitor.diagnose().findings
    assert bool(found) == sick
    assert all(finding.layers == ("score" if layer else "",) for finding in found)
    assert sick or not later
    for finding in found:
        before = model.state_dict()["head.weight"].clone()
        finding.remedies[0].apply(model)
        assert torch.equal(model.state_dict()["head.weight"], before)
        assert ((model.score.weight if layer else model.query).abs() < 0.5).all()

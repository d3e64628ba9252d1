"""representation-collapse on real runs: embeddings, codes and attention that lose what tells inputs apart."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netdoctor
from netdoctor.findings import Evidence, Finding
from netdoctor.history import History
from netdoctor.rules.representation_collapse import fires, representation_collapse
from tests.rules.training import digits

X, Y = digits()


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def encoder(outputs: int = 32) -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs))


def findings(model: nn.Module, loss_of, steps: int, optimizer=None) -> list[Finding]:
    optimizer = optimizer or torch.optim.Adam(model.parameters(), 2e-3)
    found: list[Finding] = []
    with netdoctor.watch(model, reporters=[], rules=[representation_collapse], every=3) as monitor:
        for step in range(1, steps + 1):
            optimizer.zero_grad()
            loss_of(X[torch.randint(len(X), (64,))], step).backward()
            optimizer.step()
            if step % 10 == 0:
                found += monitor.diagnose().findings
    return found


def views(x: Tensor) -> tuple[Tensor, Tensor]:
    return x + 0.3 * torch.randn_like(x), x + 0.3 * torch.randn_like(x)


def test_two_views_without_negatives_collapse_and_with_them_do_not():
    model = encoder()

    def alike(x: Tensor, step: int) -> Tensor:
        left, right = (model(view) for view in views(x))
        return F.mse_loss(left, right)

    (first, *_) = findings(model, alike, 80)
    assert first.layers == ("2",)
    assert first.step <= 60
    assert "F.cross_entropy(scores" in first.remedies[0].code

    model = encoder()

    def apart(x: Tensor, step: int) -> Tensor:
        left, right = (F.normalize(model(view), dim=1) for view in views(x))
        return F.cross_entropy(left @ right.T / 0.2, torch.arange(len(x)))

    assert not findings(model, apart, 80)


def test_a_loss_by_hand_that_only_turns_all_answers_the_same_way_is_found():
    model = encoder()

    def alike(x: Tensor, step: int) -> Tensor:
        return 1 - F.cosine_similarity(model(x), model(x.roll(1, 0)), dim=1).mean()

    found = findings(model, alike, 120)
    assert found
    assert "dimensions instead of" in found[-1].message


def test_targets_with_an_offset_are_no_collapse():
    """A regression by hand on targets of mean 10: the output's spread is small against its size."""
    weights = torch.randn(64, 4, generator=torch.Generator().manual_seed(1)) / 8
    for loss_function in (F.l1_loss, lambda p, t: (p - t).pow(2).mean(), F.smooth_l1_loss):
        model = encoder(4)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        loss = lambda x, step, f=loss_function, m=model: f(m(x), 10 + x @ weights)  # noqa: E731
        assert not findings(model, loss, 150, optimizer)


class Code(nn.Module):
    """A variational autoencoder."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.mean, self.spread = nn.Linear(64, 48), nn.Linear(48, 8), nn.Linear(48, 8)
        self.decoder = nn.Sequential(nn.Linear(8, 48), nn.ReLU(), nn.Linear(48, 64))

    def loss(self, x: Tensor, weight: float) -> Tensor:
        hidden = F.relu(self.hidden(x))
        mean, spread = self.mean(hidden), self.spread(hidden)
        answer = self.decoder(mean + torch.randn_like(mean) * (0.5 * spread).exp())
        divergence = -0.5 * (1 + spread - mean.square() - spread.exp()).sum(1).mean()
        loss: Tensor = F.mse_loss(answer, x) + weight * divergence
        return loss


@pytest.mark.parametrize(("weight", "sick"), [(1.0, True), (0.005, False)])
def test_a_code_that_costs_too_much_is_not_used(weight: float, sick: bool):
    model = Code()
    found = findings(model, lambda x, step: model.loss(x, weight), 120, torch.optim.Adam(model.parameters(), 3e-3))
    assert bool(found) == sick
    if sick:
        assert found[0].layers == ("mean", "spread")
        assert found[0].step <= 80


class Attention(nn.Module):
    """Attention layers over the rows of the digits, with or without shortcuts."""

    def __init__(self, shortcuts: bool) -> None:
        super().__init__()
        self.shortcuts = shortcuts
        self.embed = nn.Linear(8, 32)
        self.layers = nn.ModuleList(nn.MultiheadAttention(32, 4, batch_first=True) for _ in range(6))
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(6))
        self.head = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.view(-1, 8, 8))
        for attention, norm in zip(self.layers, self.norms, strict=True):
            normed = norm(x)
            mixed = attention(normed, normed, normed, need_weights=False)[0]
            x = x + mixed if self.shortcuts else mixed
        out: Tensor = self.head(x.flatten(1))
        return out


@pytest.mark.parametrize("shortcuts", [True, False])
def test_attention_without_shortcuts_averages_everything(shortcuts: bool):
    model = Attention(shortcuts)
    found = findings(model, lambda x, step: F.cross_entropy(model(x), torch.randint(10, (64,))), 10)
    assert bool(found) != shortcuts
    if found:
        assert found[0].layers[0] == "layers.0"


def test_inputs_that_are_alike_need_no_different_answers():
    model = encoder(8)
    same = X[:1].expand(64, -1) + 1e-3 * torch.randn(64, 64)
    assert not findings(model, lambda x, step: (model(same) - 1).square().mean(), 60)


@pytest.mark.parametrize("history", fires())
def test_each_disease_is_told_once(history: History):
    assert len([each for each in representation_collapse(history) if isinstance(each, Evidence)]) == 1


@pytest.mark.parametrize("stopped", [True, False])
def test_angles_between_views_with_a_gradient_into_both_leave_a_line(stopped: bool) -> None:
    body, predictor = encoder(), nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
    slow = encoder()

    def angle(x: Tensor, step: int) -> Tensor:
        left, right = views(x)
        if not stopped:
            return 1 - F.cosine_similarity(body(left), body(right)).mean()
        with torch.no_grad():
            for own, other in zip(slow.parameters(), body.parameters(), strict=True):
                own.lerp_(other, 0.02)
            aim = slow(right)
        return 1 - F.cosine_similarity(predictor(body(left)), aim - aim.mean(0)).mean()

    found = findings(nn.Sequential(body, predictor) if stopped else body, angle, 120)
    assert bool(found) != stopped


class Quantised(nn.Module):
    """A code is replaced by the nearest entry of a codebook."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.encoder, self.entries = encoder(12), nn.Embedding(64, 12)
        self.decoder = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 64))
        nn.init.normal_(self.entries.weight, std=size)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.encoder(x)
        entry: Tensor = self.entries(torch.cdist(code, self.entries.weight).argmin(1))
        apart = F.mse_loss(entry, code.detach()) + 0.25 * F.mse_loss(code, entry.detach())
        decoded: Tensor = self.decoder(code + (entry - code).detach())
        return decoded, apart


@pytest.mark.parametrize(("size", "sick"), [(3.0, True), (0.3, False)])
def test_a_codebook_of_which_one_entry_is_used(size: float, sick: bool):
    model = Quantised(size)

    def loss(x: Tensor, step: int) -> Tensor:
        again, apart = model(x)
        total: Tensor = F.mse_loss(again, x) + apart
        return total

    found = findings(model, loss, 100)
    assert bool(found) == sick
    assert all(finding.layers == ("entries",) for finding in found)


@pytest.mark.parametrize(("rate", "sick"), [(3e-2, True), (1e-3, False)])
def test_a_generator_whose_points_wander_together(rate: float, sick: bool):
    generator = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 2))
    critic = nn.Sequential(nn.Linear(2, 32), nn.SiLU(), nn.Linear(32, 1))
    model = nn.ModuleDict({"generator": generator, "critic": critic})
    first = torch.optim.Adam(generator.parameters(), rate, betas=(0.5, 0.999))
    second = torch.optim.Adam(critic.parameters(), 2e-3, betas=(0.5, 0.999))
    with netdoctor.watch(model, reporters=[], rules=[representation_collapse], every=4) as monitor:
        for _ in range(240):
            real, fake = torch.randn(64, 2).sign() + 0.1 * torch.randn(64, 2), generator(torch.randn(64, 6))
            second.zero_grad()
            (F.softplus(-critic(real)).mean() + F.softplus(critic(fake.detach())).mean()).backward()
            second.step()
            first.zero_grad()
            F.softplus(-critic(fake)).mean().backward()
            first.step()
        found = monitor.diagnose().findings
    assert bool(found) == sick
    assert all(finding.layers == ("generator.2",) and "wanders" in finding.message for finding in found)

"""Distributions, ranks and softmaxes of thorough samples against numpy, scipy and float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netdoctor import watch
from netdoctor.probes.memory import keep, time_gradient
from netdoctor.probes.sampling import Samples
from netdoctor.probes.thorough import Pacing, batch_signal, effective_rank, quantiles
from netdoctor.statistics import LEVELS, QUANTILES

CPU = torch.device("cpu")


def test_thorough_samples_are_log_spaced():
    pacing = Pacing()
    due = [step for step in range(1, 100_001) if pacing.due(step)]
    assert due[:6] == [1, 2, 3, 4, 5, 7]
    assert len(due) < 55
    assert max(b / a for a, b in itertools.pairwise(due[5:])) < 1.5


@pytest.mark.parametrize("shape", [(64, 64), (37, 5), (3, 200), (200, 3)])
def test_quantiles_are_those_of_the_sampled_rows(shape):
    tensor = torch.randn(shape).exp()
    samples = Samples(3)
    samples.store(1, tensor)
    got = quantiles(samples, CPU, 3)
    rows, units = samples.rows[1], samples.units[1]
    taken = samples.values[CPU][1, :rows:4, :units].double().numpy()
    want = np.quantile(taken, LEVELS, method="closest_observation")
    spread = np.quantile(taken, np.clip(np.array(LEVELS)[:, None] + [-0.03, 0.03], 0, 1))  # one place left or right
    assert np.all((got[1].numpy() >= spread[:, 0] - 1e-6) & (got[1].numpy() <= spread[:, 1] + 1e-6)), (got[1], want)
    assert got[[0, 2]].isnan().all()


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e12])
def test_the_effective_rank_is_the_participation_ratio_of_the_eigenvalues(scale):
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(64, 3, generator=generator) @ torch.randn(3, 20, generator=generator)
    full = torch.randn(50, 64, generator=generator) + 5
    samples = Samples(3)
    for slot, tensor in enumerate((low, full, torch.ones(64, 8))):
        samples.store(slot, tensor * scale)
    got = effective_rank(samples, CPU, 3)
    for slot, tensor in enumerate((low, full)):
        eigenvalues = np.linalg.eigvalsh(np.cov(tensor.double().numpy().T))
        assert got[slot].item() == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum(), rel=1e-3)
    assert got[0] < 3.01
    assert got[2].isnan() or got[2] < 2  # without any variance there is no dimension


def test_the_signal_over_the_batch_leaves_out_what_differs_between_positions():
    generator = torch.Generator().manual_seed(0)
    images, tokens = torch.randn(16, 3, 2, 2, generator=generator) * 1e4, torch.randn(8, 4, 20, generator=generator)
    samples = Samples(5)
    samples.store(0, images, 1)
    samples.store(1, tokens)
    samples.store(2, images[:1].expand_as(images).contiguous(), 1)  # one image again and again
    samples.store(3, tokens[:1])  # a batch of one
    got = batch_signal(samples, CPU)
    for slot, tensor in enumerate((images, tokens)):
        assert got[slot].item() == pytest.approx(tensor.double().var(0, correction=0).mean().sqrt().item(), rel=1e-6)
    assert got[2] < 1e-7 * 1e4  # the rounding of sums in float64
    assert got[3:].isnan().all()


def entropy(shares: Tensor, possible: Tensor) -> tuple[float, float]:
    """Mean entropy of the rows that have a choice, of what is possible in each, and that of the mean of all."""
    p = shares.double()
    rows = -(p * p.clamp_min(1e-300).log()).sum(-1) / possible.double().clamp_min(2).log()
    mean = p.reshape(-1, p.shape[-1]).mean(0)
    return rows[possible > 1].mean().item(), -(mean * mean.log()).sum().item() / np.log(p.shape[-1])


class Attention(nn.Module):
    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.qkv = nn.Linear(8, 24)
        self.head = nn.Linear(8, 3)
        self.shares: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4)
        logits = q @ k.transpose(-1, -2) / 2
        if self.way == "causal":
            logits = logits.masked_fill(torch.ones(x.shape[1], x.shape[1]).triu(1).bool(), -torch.inf)
        self.logits, self.shares = logits.detach(), logits.softmax(-1).detach()
        if self.way == "written out":
            mixed = logits.softmax(-1) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.way == "causal")
        out: Tensor = self.head(mixed.transpose(1, 2).flatten(2)).mean(1)
        return out


@pytest.mark.parametrize("way", ["fused", "causal", "written out"])
def test_attention_is_described_by_its_entropy(way):
    torch.manual_seed(0)
    model = Attention(way)
    with torch.no_grad():
        model.qkv.weight *= 5
    with watch(model, every=1, reporters=[]) as monitor:
        F.cross_entropy(model(torch.randn(1, 16, 8)), torch.tensor([1])).backward()
        torch.optim.SGD(model.parameters(), 0.1).step()
    shares = model.shares
    assert shares is not None
    want = entropy(shares, (shares > 0).sum(-1))
    got = [monitor.history.latest(name)["qkv"] for name in ("softmax_entropy", "softmax_balance")]
    assert got == pytest.approx(want, rel=1e-4)
    largest = model.logits[model.logits.isfinite()].abs().max().item()
    assert monitor.history.latest("attention_logit")["qkv"] == pytest.approx(largest, rel=1e-4)
    assert set(monitor.history.latest("softmax_entropy")) == {"qkv"}  # that of the loss is none of the model's


def softmaxes_of(model: nn.Module, x: Tensor) -> dict[str, tuple[float, ...]]:
    """Entropy, balance and largest logit by column, after one step."""
    with watch(model, every=1, reporters=[]) as monitor:
        F.cross_entropy(model(x).flatten(0, -2), torch.zeros(x.shape[0] * x.shape[1], dtype=torch.long)).backward()
        torch.optim.SGD(model.parameters(), 0.0).step()
        tables = [monitor.history.table(name) for name in ("softmax_entropy", "softmax_balance", "attention_logit")]
    return {name: tuple(float(table.values[0, i]) for table in tables) for i, name in enumerate(tables[0].columns)}


class Encoder(nn.Module):
    """Two attention modules in a row, with weights asked for or not, with a causal mask or without."""

    def __init__(self, weights: bool, causal: bool) -> None:
        super().__init__()
        self.weights = weights
        self.mask = torch.full((6, 6), -torch.inf).triu(1) if causal else None
        self.embed = nn.Linear(8, 16)
        self.first, self.second = (nn.MultiheadAttention(16, 2, batch_first=True) for _ in range(2))
        self.head = nn.Linear(16, 3)
        self.shares: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for attention in (self.first, self.second):
            with torch.no_grad():
                told = attention(x, x, x, attn_mask=self.mask, average_attn_weights=False)[1]
            self.shares.append(told)
            x = x + attention(x, x, x, attn_mask=self.mask, need_weights=self.weights)[0]
        out: Tensor = self.head(x)
        return out


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("weights", [True, False])
def test_attention_modules_give_their_names_however_they_are_computed(weights: bool, causal: bool):
    torch.manual_seed(0)
    model = Encoder(weights, causal)
    for attention in (model.first, model.second):
        attention.in_proj_weight.data.mul_(4)
    found = softmaxes_of(model, torch.randn(2, 6, 8))
    assert list(found) == ["first", "second"]
    for name, shares in zip(found, model.shares, strict=True):
        assert found[name][:2] == pytest.approx(entropy(shares, (shares > 0).sum(-1)), rel=1e-4)
        assert found[name][2] > 1


class Gated(nn.Module):
    """A gate over four units, attention that pools over the places, and one with a mask written as a large number."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.pool, self.query, self.key = nn.Linear(8, 4), nn.Linear(8, 1), nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.chances = self.gate(x).softmax(-1)
        pooled = (self.pool(x).softmax(1) * x).sum(1, keepdim=True)
        products = self.query(x) @ self.key(x).transpose(1, 2) / 4
        self.logits = products.detach()[:, :, :4]
        mask = torch.zeros(x.shape[1]).index_fill(0, torch.arange(4, x.shape[1]), torch.finfo(torch.float32).min)
        mixed = (products + mask).softmax(-1) @ x
        out: Tensor = self.head(mixed + pooled + self.chances.amax(-1, keepdim=True))
        return out


def test_gates_and_attention_are_told_apart():
    torch.manual_seed(0)
    model = Gated()
    found = softmaxes_of(model, torch.randn(3, 7, 8))
    want = entropy(model.chances.detach(), torch.full((3, 7), 4))
    assert found["gate"][:2] == pytest.approx(want, rel=1e-4)
    assert np.isnan(found["gate"][2])  # no product of queries and keys
    assert np.isfinite(found["pool"][1:]).all()  # one score for each place: attention pooling
    assert found["query"][2] == pytest.approx(model.logits.abs().max().item(), rel=1e-4)  # what is masked left out


def test_shares_that_vanish_are_no_mask():
    torch.manual_seed(0)
    model = Attention("written out")
    model.qkv.weight.data.mul_(200)
    with watch(model, every=1, reporters=[]) as monitor:
        F.cross_entropy(model(torch.randn(1, 16, 8)), torch.tensor([1])).backward()
        torch.optim.SGD(model.parameters(), 0.1).step()
    assert monitor.history.latest("softmax_entropy")["qkv"] < 0.02
    largest = model.logits.abs().max().item()
    assert monitor.history.latest("attention_logit")["qkv"] == pytest.approx(largest, rel=1e-4)


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize("first", [True, False])
def test_the_gradient_through_time_is_that_of_autograd(kind: Callable[..., nn.RNNBase], first: bool):
    torch.manual_seed(0)
    layer = kind(3, 8, num_layers=2, batch_first=first, dropout=0.5, bidirectional=True)
    model = nn.ModuleDict({"layer": layer, "head": nn.Linear(16, 2)})
    x = torch.randn(5, 20, 3)
    state = torch.random.get_rng_state()
    kept = keep(layer, x if first else x.transpose(0, 1))
    assert kept is not None
    got = time_gradient(layer, kept)
    assert torch.equal(torch.random.get_rng_state(), state)
    layer.eval()  # no dropout
    given = x[:2].clone().requires_grad_()
    last = (layer(given)[0] if first else layer(given.transpose(0, 1))[0].transpose(0, 1))[:, -1, :8]
    signs = torch.tensor([-1.0, 1.0]).repeat(4)
    (gradient,) = torch.autograd.grad((last * signs).sum(), given)
    want = (gradient[:, :2].square().mean() / gradient[:, -2:].square().mean()).sqrt().item()
    assert got.item() == pytest.approx(want, rel=1e-4)
    layer.train()
    with watch(model, every=1, reporters=[]) as monitor:
        states = model["layer"](x if first else x.transpose(0, 1))[0]
        F.cross_entropy(model["head"](states.flatten(0, 1)), torch.zeros(100, dtype=torch.long)).backward()
        torch.optim.SGD(model.parameters(), 0.0).step()
        assert monitor.history.latest("time_gradient") == {"layer": pytest.approx(want, rel=1e-4)}


def test_sequences_that_are_short_or_packed_have_no_gradient_through_time():
    layer = nn.GRU(3, 8, batch_first=True)
    assert keep(layer, torch.randn(2, 9, 3)) is None
    assert keep(layer, nn.utils.rnn.pack_sequence([torch.randn(20, 3)])) is None
    assert keep(nn.GRUCell(3, 8), torch.randn(2, 20, 3)) is None
    kept = keep(layer, torch.randn(9, 500, 3))
    assert kept is not None
    assert kept.shape == (128, 2, 3)


def test_distributions_and_ranks_come_into_the_history():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    outputs: list[Tensor] = []
    model[0].register_forward_hook(lambda module, args, output: outputs.append(output.detach()))
    with watch(model, every=1, reporters=[]) as monitor:
        for _ in range(8):
            F.cross_entropy(model(torch.randn(64, 6)), torch.randint(0, 4, (64,))).backward()
            optimizer.step()
    history = monitor.history
    for statistic in QUANTILES:
        assert history.table(statistic.name).steps.tolist() == [1, 2, 3, 4, 5, 7]
    middle = history.series("activation_quantile_50", "0")[1][0]
    assert abs(np.mean(outputs[0].numpy() < middle) - 0.5) < 0.06
    eigenvalues = np.linalg.eigvalsh(np.cov(outputs[0].double().numpy().T))
    want = eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
    assert history.series("effective_rank", "0")[1][0] == pytest.approx(want, rel=1e-3)
    deviation = np.sqrt(outputs[0].double().numpy().var(0).mean())
    assert history.series("activation_batch_signal", "0")[1][0] == pytest.approx(deviation, rel=1e-5)
    deviation = np.sqrt(outputs[0].clamp_min(0).double().numpy().var(0).mean())
    assert history.series("input_batch_signal", "2")[1][0] == pytest.approx(deviation, rel=1e-5)
